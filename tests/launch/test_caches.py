"""Compiled kernels on a file system that other machines serve: told, with the variable to set."""

from __future__ import annotations

from pathlib import Path

from sft.launch.caches import on_shared

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / {home} rw shared:2 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / {home}/local rw shared:3 master:4 - xfs /dev/sdb1 rw
"""


def told(home: Path, environment: dict[str, str]) -> list[str]:
    (home / "local").mkdir(exist_ok=True)
    table = TABLE.format(home=home)
    return [str(problem.where) for problem in on_shared({"HOME": str(home), **environment}, table)]


def test_a_home_on_nfs_is_told_with_both_caches(tmp_path: Path) -> None:
    assert told(tmp_path, {}) == [
        f"TRITON_CACHE_DIR={tmp_path}/.triton/cache",
        f"TORCH_EXTENSIONS_DIR={tmp_path}/.cache/torch_extensions",
    ]


def test_what_lies_on_the_nodes_own_disk_is_no_matter(tmp_path: Path) -> None:
    local = str(tmp_path / "local")
    assert told(tmp_path, {"TRITON_CACHE_DIR": local, "TORCH_EXTENSIONS_DIR": f"{local}/not/yet"}) == []
    assert told(tmp_path, {"TRITON_HOME": local, "XDG_CACHE_HOME": local}) == []


def test_one_that_was_set_to_a_shared_place_is_told_alone(tmp_path: Path) -> None:
    environment = {"TRITON_CACHE_DIR": f"{tmp_path}/cache", "TORCH_EXTENSIONS_DIR": "/tmp/x"}
    assert told(tmp_path, environment) == [f"TRITON_CACHE_DIR={tmp_path}/cache"]
