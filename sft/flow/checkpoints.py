"""Checkpoints between a run directory and a flow's datastore: each is kept as soon as it is complete, and restored whole.

What is kept is a checkpoint as the kit left it, manifest and all, and beside it the run's events up to then: an attempt
that goes on from it on another machine has the whole account of the run.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from sft.checkpoint.find import directories, publish, step_of
from sft.checkpoint.manifest import NAME as MANIFEST
from sft.checkpoint.manifest import Manifest, read_manifest, verify
from sft.rundir import RunDirectory

EVENTS = "sft-events.jsonl"
"""The run's events, within a checkpoint that is kept."""
LOOK_SECONDS = 0.2
TRIES = 3
WAIT_SECONDS = 2.0
Reference = Mapping[str, Any]


class Store(Protocol):
    """What `current.checkpoint` gives."""

    def save(
        self, path: str, name: str, metadata: dict[str, Any], latest: bool, storage_format: str
    ) -> dict[str, Any]: ...

    def load(self, reference: Any, path: str) -> Any: ...


class Keeper:
    """Keeps each complete checkpoint of a run, for the length of a `with` block.

    One thread looks, and links the files aside at once, so that `save_total_limit` cannot take them while another
    thread saves them. A datastore that fails is told, and does not end the training.

    Args:
        place: where the links lie meanwhile, on the run's file system.
        known: steps that are kept already.
    """

    def __init__(self, store: Store, run: RunDirectory, place: Path, known: Iterable[int] = ()) -> None:
        self._store, self._run, self._place = store, run, place
        self._seen = set(known)
        self.kept: list[int] = []
        self.lost: list[int] = []
        self._over = threading.Event()
        self._queue: queue.Queue[Path | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=target, name=f"keep-{target.__name__}", daemon=True)
            for target in (self._watch, self._save_all)
        ]

    def __enter__(self) -> Keeper:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._threads[0].join()
        self._look()
        self._queue.put(None)
        self._threads[1].join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        for path in directories(self._run.output_dir):
            step = step_of(path)
            if step is None or step in self._seen:
                continue
            copy = self._aside(path)
            if copy is not None:
                self._seen.add(step)
                self._queue.put(copy)

    def _aside(self, path: Path) -> Path | None:
        """Link a complete checkpoint aside; None where it is none, or has just been rotated away."""
        copy = self._place / path.name
        shutil.rmtree(copy, ignore_errors=True)
        try:
            manifest = read_manifest(path)
            for name in [*manifest.files, MANIFEST]:
                link(path / name, copy / name)
            verify(copy, manifest, hashes=False)
            _copy_lines(self._run.events_jsonl, copy / EVENTS)
        except (OSError, ValueError) as problem:
            shutil.rmtree(copy, ignore_errors=True)
            if isinstance(problem, OSError) and path.exists():
                _say(f"{path.name} cannot be linked aside to be kept: {problem}; trying again")
                self._over.wait(WAIT_SECONDS)
            return None
        return copy

    def _save_all(self) -> None:
        while (copy := self._queue.get()) is not None:
            step = step_of(copy)
            assert step is not None
            (self.kept if self._save(copy) else self.lost).append(step)
            shutil.rmtree(copy, ignore_errors=True)

    def _save(self, copy: Path) -> bool:
        for number in range(1, TRIES + 1):
            try:
                told = told_of(copy)
                self._store.save(
                    path=str(copy), name=copy.name, metadata=told, latest=True, storage_format="files"
                )
            except Exception as error:  # every datastore has errors of its own
                _say(f"{copy.name} cannot be kept in the datastore ({number} of {TRIES} tries): {error}")
                time.sleep(WAIT_SECONDS if number < TRIES else 0)
            else:
                loss = "" if told["loss"] is None else f", loss {told['loss']:.4g}"
                _say(f"kept {copy.name} in the datastore: epoch {told['epoch']:.2f}{loss}")
                return True
        return False


def told_of(checkpoint: Path) -> dict[str, Any]:
    """Return what is known of a checkpoint without loading it: step, epoch, loss, and the best one until then."""
    manifest = read_manifest(checkpoint)
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        history = state["log_history"]
    except (OSError, ValueError, KeyError, TypeError):
        history = []
    last = {
        key: next((row[key] for row in reversed(history) if key in row), None)
        for key in ("loss", "eval_loss")
    }
    return {
        "step": manifest.step,
        "epoch": manifest.epoch,
        **last,
        "best_step": manifest.best_step,
        "run_id": manifest.run_id,
        "bytes": manifest.bytes,
    }


def restore(store: Store, run: RunDirectory, references: Sequence[Reference]) -> list[int]:
    """Bring the newest whole checkpoint into an empty run directory, and the best one until then where it is another.

    A checkpoint whose bytes are not those that were written gives way to the one before it.

    Returns:
        The steps that are there now.
    """
    kept = sorted(
        (one for one in references if _step(one) is not None), key=lambda one: _step(one) or 0, reverse=True
    )
    newest: Manifest | None = None
    there: list[int] = []
    for reference in kept:
        step = _step(reference)
        if step in there or (newest is not None and step != newest.best_step):
            continue
        manifest = _fetch(store, run, reference, with_events=newest is None)
        if manifest is None:
            continue
        newest = newest or manifest
        there.append(manifest.step)
    return there


def _step(reference: Reference) -> int | None:
    step = (reference.get("metadata") or {}).get("step")
    return step if isinstance(step, int) else None


def _fetch(store: Store, run: RunDirectory, reference: Reference, *, with_events: bool) -> Manifest | None:
    aside = run.staging / f"checkpoint-{_step(reference)}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        store.load(reference, path=str(aside))
        own(aside)
        manifest = read_manifest(aside)
        verify(aside, manifest)
    except Exception as problem:  # every datastore has errors of its own
        shutil.rmtree(aside, ignore_errors=True)
        _say(f"{aside.name} in the datastore is not whole: {problem}")
        return None
    events = aside / EVENTS
    if events.exists():
        if with_events:
            events.replace(run.events_jsonl)
        else:
            events.unlink()
    publish(run, aside)
    _say(f"restored {aside.name} from the datastore ({reference.get('key')})")
    return manifest


def own(directory: Path) -> None:
    """Turn links to files into files: a datastore on this machine's disk gives links, and its files must stay as they are."""
    for path in directory.rglob("*"):
        if path.is_symlink():
            source = path.resolve(strict=True)
            path.unlink()
            shutil.copyfile(source, path)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no such thing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _copy_lines(source: Path, target: Path) -> None:
    """Copy a file up to its last whole line."""
    try:
        data = source.read_bytes()
    except FileNotFoundError:
        return
    target.write_bytes(data[: data.rfind(b"\n") + 1])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
