"""`events.jsonl`: append events, read them, follow them.

Each line is one JSON object with `time` (seconds since the epoch) and `event` (its kind):

| event    | fields |
|----------|--------|
| start    | run_id, world_size, step (0, or the checkpoint's), run_name, config (what the run file sets), report (names and places of the views) |
| phase    | phase: load, prepare, train, evaluate, save, export, push |
| network  | backend, across, inside, links: bytes a second of an all-reduce over all ranks, over a node's, and between nodes |
| data     | splits: the sums of each prepared split (sft.data.ledger.SplitSummary) |
| model    | the summary of what was really loaded |
| log      | step, max_steps, epoch, loss, learning_rate, grad_norm, trained_tokens, trained_tokens_per_second, peak_memory_bytes, seconds_left, and any metric that the trainer logs |
| evaluate | step, epoch, and the metrics, named eval_* |
| save     | step, path |
| push     | state (waiting, done, failed), what, url |
| note     | text: something that the user should know, said once |
| end      | status (finished, stopped, failed), exit_code, step |
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def _finite(value: Any) -> Any:
    """Spell NaN and infinities as strings, which JSON has no numbers for."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


class EventLog:
    """Append events to one file. Each event is a single `write`, so that writers do not mix lines.

    A line that a power cut or a full disk has torn is closed first: it must not take the next one with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; the directory is made on the first one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {"time": round(time.time(), 3), "event": event, **_finite(fields)}
        line = (json.dumps(record, default=str) + "\n").encode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)


def read_events(path: Path) -> Iterator[Event]:
    """Yield the events of a file in order; a torn last line, from a kill, is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


class EventFollower:
    """Read what was appended since the last call, from `offset` bytes on."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset

    def poll(self) -> list[Event]:
        """Return the events that are complete and new."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self.offset += end
        events: list[Event] = []
        for line in data[:end].splitlines():
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return events
