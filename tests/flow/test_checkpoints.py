"""Keeping and restoring checkpoints, with a datastore of one directory that gives links, as Metaflow's local one does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.events import EventLog, read_events
from sft.flow import checkpoints
from sft.flow.checkpoints import Keeper, restore
from sft.rundir import RunDirectory
from tests.checkpoint.made import FILES, make, run_in

STATE = b'{"global_step": 4, "log_history": [{"loss": 2.5, "step": 1}, {"eval_loss": 3.5}, {"loss": 1.5, "step": 2}]}'


class Directory:
    """A datastore. It can fail, wait, and tear what it holds."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.references: list[dict[str, Any]] = []
        self.failures = 0
        self.before: Callable[[], None] = lambda: None

    def save(
        self, path: str, name: str, metadata: dict[str, Any], latest: bool, storage_format: str
    ) -> dict[str, Any]:
        self.before()
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the bucket does not answer")
        key = f"{len(self.references)}.{name}"
        shutil.copytree(path, self.place / key)
        self.references.append({"key": key, "metadata": metadata, "attempt": 0})
        return self.references[-1]

    def load(self, reference: Any, path: str) -> None:
        source = self.place / reference["key"]
        for file in source.rglob("*"):
            if file.is_file():
                target = Path(path) / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(file)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory:
    monkeypatch.setattr(checkpoints, "WAIT_SECONDS", 0.0)
    return Directory(tmp_path / "store")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = run_in(tmp_path)
    EventLog(run.events_jsonl).write("log", step=1, loss=2.5)
    return run


def made(run: RunDirectory, step: int, **more: Any) -> Path:
    return make(run.output_dir, step, {**FILES, "trainer_state.json": STATE}, **more)


def _until(condition: Callable[[], bool]) -> None:
    due = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < due
        time.sleep(0.01)


def test_each_complete_checkpoint_is_kept_with_what_is_known_of_it(
    store: Directory, run: RunDirectory, tmp_path: Path
) -> None:
    made(run, 1)
    with Keeper(store, run, tmp_path / "aside", known=[1]) as keeper:
        made(run, 2, epoch=0.25)
        torn = run.output_dir / "checkpoint-3"
        shutil.copytree(run.output_dir / "checkpoint-2", torn)
        (torn / "manifest.json").unlink()
        _until(lambda: len(store.references) == 1)
        made(run, 4, best_step=2)
    assert keeper.kept == [2, 4]
    assert [one["metadata"] for one in store.references] == [
        {"step": 2, "epoch": 0.25, "loss": 1.5, "eval_loss": 3.5, "best_step": None, "run_id": "abcd1234", "bytes": size}
        for size in [_bytes()]
    ] + [
        {"step": 4, "epoch": 0.5, "loss": 1.5, "eval_loss": 3.5, "best_step": 2, "run_id": "abcd1234", "bytes": _bytes()}
    ]  # fmt: skip
    assert list((tmp_path / "aside").iterdir()) == []


def _bytes() -> int:
    return sum(map(len, {**FILES, "trainer_state.json": STATE}.values()))


def test_a_checkpoint_that_is_rotated_away_while_the_datastore_is_slow_is_kept_whole(
    store: Directory, run: RunDirectory, tmp_path: Path
) -> None:
    aside = tmp_path / "aside"

    def wait() -> None:
        _until(lambda: not (run.output_dir / "checkpoint-4").exists())

    store.before = wait
    made(run, 2)
    with Keeper(store, run, aside) as keeper:
        made(run, 4)
        _until(lambda: (aside / "checkpoint-4" / checkpoints.EVENTS).exists())
        shutil.rmtree(run.output_dir / "checkpoint-4")
    assert keeper.kept == [2, 4]
    shutil.rmtree(run.output_dir)
    assert restore(store, run, store.references) == [4]
    assert (run.output_dir / "checkpoint-4" / "optimizer.pt").read_bytes() == FILES["optimizer.pt"]


def test_a_datastore_that_fails_is_told_and_tried_again(
    store: Directory, run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.failures = 2
    made(run, 2)
    with Keeper(store, run, tmp_path / "aside") as keeper:
        _until(lambda: keeper.kept == [2])
        store.failures = 3
        made(run, 4)
    assert keeper.lost == [4]
    said = capsys.readouterr().err
    assert "checkpoint-4 cannot be kept in the datastore (3 of 3 tries): the bucket does not answer" in said
    assert "kept checkpoint-2 in the datastore: epoch 0.50, loss 1.5" in said


def _kept(store: Directory, run: RunDirectory, tmp_path: Path, *steps: int, **more: Any) -> None:
    with Keeper(store, run, tmp_path / "aside"):
        for step in steps:
            made(run, step, **more)
    shutil.rmtree(run.output_dir)


def test_the_newest_is_restored_as_files_of_its_own_with_the_events_of_the_run(
    store: Directory, run: RunDirectory, tmp_path: Path
) -> None:
    _kept(store, run, tmp_path, 2, 4, 10)
    assert restore(store, run, store.references) == [10]
    path = run.output_dir / "checkpoint-10"
    assert [file for file in path.rglob("*") if file.is_symlink()] == []
    assert not (path / checkpoints.EVENTS).exists()
    assert [event["loss"] for event in read_events(run.events_jsonl)] == [2.5]
    assert list(run.staging.iterdir()) == []


def test_the_best_one_is_restored_beside_the_newest(
    store: Directory, run: RunDirectory, tmp_path: Path
) -> None:
    _kept(store, run, tmp_path, 2, 4, 6, best_step=2)
    assert restore(store, run, store.references) == [6, 2]
    assert sorted(path.name for path in run.output_dir.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-6",
    ]


@pytest.mark.parametrize("what", ["a byte", "a file", "all"])
def test_one_that_the_datastore_holds_torn_gives_way_to_the_one_before(
    what: str, store: Directory, run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _kept(store, run, tmp_path, 2, 4)
    torn = store.place / store.references[1]["key"]
    if what == "a byte":
        (torn / "optimizer.pt").write_bytes(b"M" + FILES["optimizer.pt"][1:])
    elif what == "a file":
        (torn / "optimizer.pt").unlink()
    else:
        shutil.rmtree(torn)
    assert restore(store, run, store.references) == [2]
    assert "checkpoint-4 in the datastore is not whole: " in capsys.readouterr().err


def test_nothing_is_restored_where_nothing_was_kept(store: Directory, run: RunDirectory) -> None:
    note = {"key": "ended", "metadata": {"told": "sft launch ended with 2"}, "attempt": 0}
    assert restore(store, run, [note]) == []
