"""What is pushed is what was there when the push was asked for, whatever becomes of it before it arrives."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sft.events import read_events
from sft.hub import journal, snapshot
from sft.hub.journal import being_delivered, pending, settled
from sft.hub.outbox import request_push
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from tests.hub.conftest import (
    MODEL,
    TOKENIZER,
    Push,
    save_checkpoint,
    save_final,
    write_files,
    write_manifest,
)
from tests.loopback.hub import Hub

REPO = "team/chat"
ALL = HubSettings(repo=REPO, strategy="all_checkpoints")
EVERY = HubSettings(repo=REPO, strategy="every_save")
LARGE = b"x" * (snapshot.LINKED_FROM_BYTES + 1)


def save_large(run: RunDirectory, step: int, fill: bytes = LARGE) -> Path:
    """Save a checkpoint whose weights are large enough to be linked."""
    weights = save_checkpoint(run, step) / "model.safetensors"
    weights.write_bytes(fill)
    return weights


def snapshots(run: RunDirectory) -> list[str]:
    """The files that the outbox holds, without the journal."""
    return sorted(
        path.name.rsplit("-", 1)[0] for path in run.outbox.iterdir() if path.is_dir() and path.name != "done"
    )


def rotate(run: RunDirectory) -> None:
    shutil.rmtree(run.output_dir / "checkpoint-3")


def save_again(run: RunDirectory) -> None:
    """Save the same step again, as a save is: made aside and renamed."""
    shutil.rmtree(run.output_dir / "checkpoint-3")
    save_large(run, 3, b"y" * len(LARGE))


def edit(run: RunDirectory) -> None:
    """Write into a small file in place."""
    (run.output_dir / "checkpoint-3" / "config.json").write_text("{}")


@pytest.mark.parametrize("change", [rotate, save_again, edit], ids=lambda change: change.__name__)
def test_what_was_asked_for_arrives_whatever_became_of_it(
    hub: Hub, run: RunDirectory, push: Push, change: Callable[[RunDirectory], None]
) -> None:
    save_large(run, 3)
    saved = {path.name: path.read_bytes() for path in (run.output_dir / "checkpoint-3").iterdir()}
    request_push(run, EVERY, "save", 3)
    change(run)
    assert push().problem is None
    assert hub.files(REPO) == {name: saved[name] for name in MODEL | TOKENIZER}
    assert snapshots(run) == []


def test_a_checkpoint_that_is_rotated_away_during_the_upload_arrives(
    hub: Hub, run: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_large(run, 3)
    request_push(run, EVERY, "save", 3)
    create = Hub.create

    def rotate_then_create(self: Hub, body: dict[str, object]) -> dict[str, object]:
        rotate(run)
        return create(self, body)

    monkeypatch.setattr(Hub, "create", rotate_then_create)
    assert push().problem is None
    assert hub.files(REPO)["model.safetensors"] == LARGE


def test_large_files_are_linked_and_cost_nothing(run: RunDirectory) -> None:
    weights = save_large(run, 3)
    request_push(run, HubSettings(repo=REPO, strategy="checkpoint"), "save", 3)
    assert (
        weights.stat().st_nlink == 3
    )  # its own, that for the root of the repository, that for last-checkpoint/


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_there_are_no_links_files_are_copied(
    hub: Hub, run: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(snapshot.os, "link", refuse)
    save_large(run, 3)
    request_push(run, EVERY, "save", 3)
    rotate(run)
    assert push().problem is None
    assert hub.files(REPO)["model.safetensors"] == LARGE


def test_a_symbolic_link_is_pushed_as_the_file_that_it_names(hub: Hub, run: RunDirectory, push: Push) -> None:
    weights = save_large(run, 3)
    elsewhere = weights.rename(run.output_dir.parent / "elsewhere")
    weights.symlink_to(elsewhere)
    request_push(run, EVERY, "save", 3)
    elsewhere.unlink()
    assert push().problem is None
    assert hub.files(REPO)["model.safetensors"] == LARGE


def test_a_full_disk_leaves_nothing_behind(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save_large(run, 3)
    monkeypatch.setattr(snapshot.os, "link", refuse)
    assert request_push(run, EVERY, "save", 3) is None
    [note] = [event["text"] for event in read_events(run.events_jsonl) if event["event"] == "note"]
    assert note == "checkpoint-3 is not pushed: [Errno 28] No space left on device"
    assert pending(run) == []
    assert snapshots(run) == []


def test_a_large_file_that_was_written_into_in_place_is_not_pushed(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    save_final(run)
    weights = run.output_dir / "model.safetensors"
    weights.write_bytes(LARGE)
    request_push(run, HubSettings(repo=REPO, strategy="end", revision="dev"), "end", 6)
    with weights.open("r+b") as file:
        file.write(b"torn")
    report = push()
    assert str(report.problem) == (
        "model.safetensors was written to after its push was asked for\n"
        f"  where: the model of step 6 to {REPO} at {hub.url}\n"
        f"  fix:   `sft push {run.output_dir} --repo {REPO} --revision dev` pushes the finished model as it is now"
    )
    assert hub.repositories == {}
    request_push(run, HubSettings(repo=REPO, strategy="end", revision="dev"), "end", 6)
    assert push().problem is None
    assert hub.files(REPO, "dev")["model.safetensors"][:6] == b"tornxx"
    assert pending(run) == []


def test_with_a_manifest_it_is_the_hash_that_decides(hub: Hub, run: RunDirectory, push: Push) -> None:
    """A clean-up that touches every file, as clusters have them, holds nothing up; other bytes do."""
    for step in (3, 6):
        save_large(run, step)
        write_manifest(run.output_dir / f"checkpoint-{step}", MODEL | TOKENIZER)
        request_push(run, ALL, "save", step)
    os.utime(run.output_dir / "checkpoint-3" / "model.safetensors")
    assert hub.repositories == {}
    with (run.output_dir / "checkpoint-6" / "model.safetensors").open("r+b") as file:
        file.write(b"torn")
    report = push()
    assert [one.what for one in report.delivered] == ["checkpoint-3"]
    assert report.problem is not None
    assert report.problem.what == "model.safetensors was written to after its push was asked for"


def test_what_a_later_push_overtakes_is_let_go_of_when_that_is_asked_for(run: RunDirectory) -> None:
    for step in (3, 6, 9):
        save_large(run, step)
        request_push(run, EVERY, "save", step)
        assert snapshots(run) == [f"{step // 3:06d}-save-{step}"]
    assert [(one.request.step, one.state, one.reason) for one in settled(run)] == [
        (3, "skipped", "a later push brings the same files anew"),
        (6, "skipped", "a later push brings the same files anew"),
    ]


def test_what_is_being_delivered_keeps_its_files_until_it_is_through(run: RunDirectory) -> None:
    save_large(run, 3)
    first = request_push(run, EVERY, "save", 3)
    assert first is not None
    with being_delivered(run, first) as waits:
        assert waits
        for step in (6, 9):
            save_large(run, step)
            request_push(run, EVERY, "save", step)
        assert snapshots(run) == ["000001-save-3", "000003-save-9"]
    assert snapshots(run) == ["000003-save-9"]
    with being_delivered(run, first) as waits:
        assert not waits


def test_every_checkpoint_of_all_checkpoints_is_held_though_one_is_kept(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    for step in (3, 6, 9):
        save_large(run, step, b"%d" % step + LARGE)
        request_push(run, ALL, "save", step)
        shutil.rmtree(run.output_dir / f"checkpoint-{step}")
    assert push().problem is None
    files = hub.files(REPO)
    for step in (3, 6, 9):
        assert files[f"checkpoint-{step}/model.safetensors"] == b"%d" % step + LARGE


@pytest.mark.parametrize("last", ["hold", "rename", "enter"])
def test_a_kill_while_a_push_is_asked_for_leaves_all_of_it_or_nothing(
    hub: Hub, run: RunDirectory, push: Push, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_large(run, 3)
    patched = {
        "hold": "import sft.hub.snapshot as m; n = '_hold'",
        "rename": "import sft.hub.snapshot as m; n = 'write_whole'",
        "enter": "import sft.hub.outbox as m; n = 'enter'",
    }[last]
    script = (
        f"import os, pathlib, signal, sys\n{patched}\n"
        "from sft.hub.outbox import request_push\nfrom sft.hub.settings import HubSettings\n"
        "from sft.rundir import RunDirectory\n"
        "setattr(m, n, lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
        "request_push(RunDirectory(pathlib.Path(sys.argv[1])), HubSettings(repo='team/chat'), 'save', 3)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(run.output_dir)], check=False)
    assert killed.returncode == -9
    assert pending(run) == []
    save_checkpoint(run, 6)
    request_push(run, EVERY, "save", 6)
    assert push().problem is None
    assert len(hub.commits(REPO)) == 1
    assert snapshots(run) != []  # it may be one that is being asked for: it goes away an hour later
    monkeypatch.setattr(journal, "ORPHAN_SECONDS", 0.0)
    time.sleep(0.01)
    write_files(run.output_dir / "checkpoint-9", MODEL, "9")
    request_push(run, EVERY, "save", 9)
    assert push().problem is None
    assert snapshots(run) == []


def test_files_that_a_killed_delivery_left_after_its_record_go_with_the_next(
    run: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_large(run, 3)
    request_push(run, EVERY, "save", 3)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_remove_files", lambda *_: None)
        assert push().problem is None
    assert snapshots(run) == ["000001-save-3"]
    save_large(run, 6)
    request_push(run, EVERY, "save", 6)
    assert push().problem is None
    assert snapshots(run) == []
