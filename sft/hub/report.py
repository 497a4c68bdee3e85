"""What became of a delivery, for the screen, for the process that waits for it, and for the events."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from sft.errors import Problem
from sft.rundir import RunDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """One push that reached the Hub."""

    what: str
    repo: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryReport:
    """What a delivery did; `problem` is why pushes still wait, `waiting` names those.

    `again_seconds` is when another try is worth it; None where a person has to mend something first.
    """

    delivered: tuple[Delivered, ...] = ()
    notes: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    problem: Problem | None = None
    again_seconds: float | None = None

    def lines(self) -> list[str]:
        """Tell people what happened."""
        told = [f"pushed {one.what} to {one.url}" for one in self.delivered] + list(self.notes)
        return told + ([str(self.problem)] if self.problem else [])

    def to_json(self) -> str:
        """Spell the report as one line of JSON."""
        problem = self.problem and [self.problem.what, self.problem.where, self.problem.fix]
        delivered = [[one.what, one.repo, one.url] for one in self.delivered]
        return json.dumps(
            {"delivered": delivered, "notes": self.notes, "waiting": self.waiting, "problem": problem}
        )

    @classmethod
    def from_json(cls, text: str) -> DeliveryReport:
        """Read what `to_json` wrote."""
        record = json.loads(text)
        return cls(
            delivered=tuple(
                Delivered(what=what, repo=repo, url=url) for what, repo, url in record["delivered"]
            ),
            notes=tuple(record["notes"]),
            waiting=tuple(record["waiting"]),
            problem=Problem(*record["problem"]) if record["problem"] else None,
        )


def push_command(run: RunDirectory) -> str:
    """The one command that delivers what waits."""
    return f"sft push {shlex.quote(str(run.output_dir.absolute()))}"


def out_of_time(run: RunDirectory, seconds: float) -> Problem:
    """The push was given up at its time limit."""
    return Problem(
        f"the push to the Hub did not end within {seconds:g} s; the run itself is complete on disk",
        str(run.outbox),
        f"{push_command(run)}  # takes up what still waits",
    )
