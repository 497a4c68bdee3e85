"""The room on a file system is what is free and what a quota leaves; a node's own disk is known as such."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sft.check import filesystem
from sft.check.filesystem import Room, node_local, parse_quota, quota_left
from sft.mounts import Mount, mount_of

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / {place} rw shared:2 - nfs4 server:/export/my\\040work rw,vers=4.2
31 30 0:41 / {place}/fast rw shared:3 master:4 - lustre 10.0.0.1@o2ib:/fast rw
"""
QUOTA = """\
Disk quotas for user someone (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
      /dev/sda1  123456       0       0             100       0       0
server:/export/home 4000000* 3000000 5000000   6days     100       0       0
server:/soft  1000    3000       0             100       0       0
server:/over  6000*   3000    5000    none     100       0       0
"""
LFS = "        /lustre/work [2000]* 0 10000000 - 100 0 0 -\n"


def test_a_path_is_on_the_nearest_mount(tmp_path: Path) -> None:
    table = TABLE.format(place=tmp_path)
    (tmp_path / "fast").mkdir()
    assert mount_of(Path("/"), table) == Mount("/dev/sda1", Path("/"), "ext4")
    assert mount_of(tmp_path / "not" / "yet", table) == Mount("server:/export/my work", tmp_path, "nfs4")
    assert mount_of(tmp_path / "fast" / "run", table) == Mount(
        "10.0.0.1@o2ib:/fast", tmp_path / "fast", "lustre"
    )


@pytest.mark.parametrize(
    ("text", "source", "left"),
    [
        pytest.param(QUOTA, "/dev/sda1", None, id="no-limit"),
        pytest.param(QUOTA, "server:/export/home", 1_000_000 * 1024, id="hard-limit-counts"),
        pytest.param(QUOTA, "server:/soft", 2000 * 1024, id="soft-limit-alone"),
        pytest.param(QUOTA, "server:/over", 0, id="over"),
        pytest.param(QUOTA, "server:/other", None, id="not-listed"),
        pytest.param(LFS, "/lustre/work", 9_998_000 * 1024, id="lustre"),
        pytest.param("", "/dev/sda1", None, id="nothing"),
    ],
)
def test_a_quota_is_read(text: str, source: str, left: int | None) -> None:
    assert parse_quota(text, Mount(source, Path("/mnt"), "nfs4")) == left


def test_the_quota_commands_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [Mount("server:/home", tmp_path, "nfs4"), Mount("10.0.0.1@o2ib:/fast", tmp_path, "lustre")]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [quota_left(mount, tmp_path) for mount in mounts] == [None, None]
    _command(tmp_path / "quota", 'test "$*" = -w || exit 9\necho "server:/home 1 0 5 10 0 0"\nexit 1')
    _command(
        tmp_path / "lfs", f'test "$1 $2 $3" = "quota -q -u" || exit 9\necho "{tmp_path} 1 0 9 - 10 0 0 -"'
    )
    assert [quota_left(mount, tmp_path) for mount in mounts] == [4096, 8192]


def test_a_file_server_that_is_down_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "QUOTA_SECONDS", 0.2)
    monkeypatch.setenv("PATH", str(tmp_path))
    _command(tmp_path / "quota", "exec /bin/sleep 30")
    began = time.monotonic()
    assert quota_left(Mount("server:/home", tmp_path, "nfs4"), tmp_path) is None
    assert time.monotonic() - began < 5


def test_what_only_this_machine_sees_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_local(Path("/dev/shm/hub"), {}) == "/dev/shm is tmpfs, which lies in this machine's memory"
    assert node_local(Path("/tmp/hub"), {}) == "/tmp is this machine's own"
    assert (
        node_local(Path("/scratch/job/hub"), {"TMPDIR": "/scratch/job"})
        == "/scratch/job is this machine's own"
    )
    assert node_local(Path("/"), {}) is None


def test_the_smaller_bound_counts() -> None:
    assert (Room(Path("/"), 5, 3).bytes, Room(Path("/"), 5, 3).bound) == (3, "is left of your quota")
    assert (Room(Path("/"), 5, 9).bytes, Room(Path("/"), 5, 9).bound) == (5, "is free")
    assert (Room(Path("/"), 5).bytes, Room(Path("/"), 5).bound) == (5, "is free")


def _command(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
