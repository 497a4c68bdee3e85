"""The watch over the ranks of one node: none goes without progress for longer than its phase may.

Progress is whatever a rank writes of itself (`sft.training.rank`). A rank that waits in a collective is as old as
the one it waits for, so it is given the longest of the limits that any rank's phase has.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sft.config.limits import LimitsConfig
from sft.errors import Problem
from sft.launch.said import RankState
from sft.rundir import RunDirectory

START = "start"
# What passes between two looks counts no more than this: the job may have been suspended, this process with it.
LONGEST_LOOK_SECONDS = 2.0

Mark = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Hang:
    """A run without progress: where each rank is, and whose limit passed.

    Attributes:
        places: where each rank is, in words; a rank that has not begun is in it.
        limit: the phase whose limit passed, and its seconds.
        where: what shows more.
        silent: ranks that could not write their stacks, and why.
        frames: where the main thread of the others stands.
        locks: locks of the torch extensions cache that a rank waits for and nobody holds.
    """

    places: Mapping[int, str]
    limit: tuple[str, float]
    where: str
    silent: Mapping[int, str] = field(default_factory=dict)
    frames: Mapping[int, str] = field(default_factory=dict)
    locks: Sequence[str] = ()

    @property
    def line(self) -> str:
        """Say in one line which rank is where."""
        told = {rank: place + self._why(rank) for rank, place in self.places.items()}
        groups: dict[str, list[int]] = {}
        for rank, place in sorted(told.items()):
            groups.setdefault(place, []).append(rank)
        # The odd one out is the one to look at.
        where = [
            f"{_ranks(ranks)} {place}"
            for place, ranks in sorted(groups.items(), key=lambda item: len(item[1]))
        ]
        phase, seconds = self.limit
        return f"{', '.join(where)}: no progress for {seconds:g} s (limit of {phase})"

    @property
    def problem(self) -> Problem:
        """Say it as what ended the run."""
        if self.locks:
            fix = f"remove what a build that was killed has left: rm {' '.join(self.locks)}"
        elif self.silent:
            fix = "find out what holds the process; the run continues from its last checkpoint"
        else:
            phase, seconds = self.limit
            fix = f"see there what they wait for; if it only takes longer, set launch.limits.{phase} above {seconds:g}"
        return Problem(self.line, self.where, fix)

    @property
    def details(self) -> tuple[str, ...]:
        """Say where each rank's main thread stands."""
        return tuple(f"  rank {rank} is at {frame}" for rank, frame in sorted(self.frames.items()))

    def _why(self, rank: int) -> str:
        return f" ({self.silent[rank]})" if rank in self.silent else ""


class Watch:
    """Looks at the ranks' states, and counts for how long each has stayed the same.

    Args:
        ranks: the ranks of this node.
    """

    def __init__(self, run: RunDirectory, limits: LimitsConfig, ranks: range) -> None:
        self._run = run
        self._limits = limits
        self._ranks = ranks
        self._looked = time.monotonic()
        self._marks: dict[int, Mark | None] = {}
        self._still_seconds: dict[int, float] = {}

    def look(self, states: Mapping[int, RankState]) -> Hang | None:
        """Look again; return the hang, if a limit has passed.

        Args:
            states: of every rank that has begun, those of other nodes too where the directory is shared.
        """
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, LONGEST_LOOK_SECONDS), now
        phases = {rank: states[rank].phase or START if rank in states else START for rank in self._ranks}
        phases |= {rank: state.phase or START for rank, state in states.items()}
        ended = {rank for rank, state in states.items() if state.status != "running"}
        waiting_for = max(
            ((self._seconds(phase), phase) for rank, phase in phases.items() if rank not in ended),
            default=(0.0, START),
        )
        for rank in self._ranks:
            mark = self._mark(states.get(rank))
            if mark != self._marks.get(rank):
                self._marks[rank], self._still_seconds[rank] = mark, 0.0
            else:
                self._still_seconds[rank] = self._still_seconds.get(rank, 0.0) + passed
            # What a rank does before it has met the others, it does alone.
            limit = (self._seconds(START), START) if phases[rank] == START else waiting_for
            if rank not in ended and self._still_seconds[rank] > limit[0]:
                places = {other: _place(states.get(other)) for other in sorted(phases) if other not in ended}
                # What never began can only be in what the launcher says.
                where = self._run.stacks if set(self._ranks) <= set(states) else self._run.launcher_log
                return Hang(places, (limit[1], limit[0]), str(where))
        return None

    def _seconds(self, phase: str) -> float:
        limits: dict[str, float] = self._limits.model_dump()
        return limits.get(phase, self._limits.longest_seconds)

    def _mark(self, state: RankState | None) -> Mark | None:
        if state is None:
            return None
        try:
            written = self._run.rank_state(state.rank).stat().st_mtime_ns
        except OSError:
            written = 0
        return state.phase, state.step, state.since, written


def _place(state: RankState | None) -> str:
    if state is None:
        return "has not begun"
    if state.phase == "train" and state.step is not None:
        return f"in step {state.step + 1}"
    return f"in {state.phase or START}"


def _ranks(ranks: Sequence[int]) -> str:
    """Write ranks as `rank 1` or `ranks 0, 2-7`."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    told = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"rank{'s' if len(ranks) > 1 else ''} {told}"
