"""What the processes of a launch leave of themselves: the ranks' states, and their logs. Reads, judges nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.errors import ExitCode
from sft.rundir import BEFORE_TRAINING, RunDirectory

TAIL_LINES = 30
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class RankState:
    """What one rank last said of itself. `step` counts the steps it has done; `since` is CLOCK_MONOTONIC."""

    rank: int
    pid: int | None = None
    host: str | None = None
    status: str = "running"
    phase: str | None = None
    step: int | None = None
    since: float | None = None
    exit_code: int = ExitCode.BUG
    time: float = 0.0
    what: str = "it did not say why"
    where: str | None = None
    fix: str | None = None

    @property
    def is_user_problem(self) -> bool:
        """Whether the user can mend it; then the log behind it says nothing more."""
        return self.exit_code not in (ExitCode.BUG, ExitCode.WORKER_LOST) or self.fix is not None


def read_states(run: RunDirectory, ranks: range | None = None) -> dict[int, RankState]:
    """Read what these ranks, or all, last said; one that is being written counts as running."""
    states = {}
    paths = run.ranks.glob("rank-*.json") if ranks is None else map(run.rank_state, ranks)
    for path in paths:
        number = path.stem.removeprefix("rank-")
        if not number.isdecimal() or (ranks is not None and not path.exists()):
            continue
        said = read_object(path) or {}
        rank = int(number)
        known = {name: said[name] for name in RankState.__slots__ if said.get(name) is not None}
        states[rank] = RankState(**{**known, "rank": rank})
    return states


def has_trained(states: Mapping[int, RankState]) -> bool:
    """Say whether any rank has come as far as the training."""
    return any(state.phase not in BEFORE_TRAINING for state in states.values())


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is none, only a part of one, or a disk that does not give it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_tail(path: Path, start: int, lines: int = TAIL_LINES) -> list[str]:
    """Read the last lines that were written after byte `start`, as a terminal would leave them."""
    written = read_from(path, start, most=200_000)
    kept: list[str] = []
    for line in written.split("\n"):
        # A progress bar overwrites itself: only what it showed last counts.
        text = CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]).rstrip()
        if text or (kept and kept[-1]):
            kept.append(text)
    while kept and not kept[-1]:
        kept.pop()
    return kept[-lines:]


def read_from(path: Path, start: int, most: int = 2_000_000) -> str:
    """Read what was written after byte `start`, at most the last `most` bytes; empty if there is no file."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start if start <= end else 0, end - most))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
