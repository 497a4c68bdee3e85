"""What a check has found, and how grave it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sft.errors import ExitCode, Problem

Gravity = Literal["error", "warning", "note"]
GRAVITIES: tuple[Gravity, ...] = ("error", "warning", "note")
"""From what refuses a run to what a user may like to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a check says.

    Attributes:
        check: the name of the check; filled in by whoever runs it.
        exit_code: what the command ends with, of an error.
    """

    gravity: Gravity
    problem: Problem
    exit_code: ExitCode = ExitCode.USAGE
    check: str = ""

    def __str__(self) -> str:
        return str(self.problem) if self.gravity == "error" else f"{self.gravity}: {self.problem}"


def error(
    what: str, where: str | None = None, fix: str | None = None, *, exit_code: ExitCode = ExitCode.USAGE
) -> Finding:
    """Refuse the run."""
    return Finding(gravity="error", problem=Problem(what, where, fix), exit_code=exit_code)


def warning(what: str, where: str | None = None, fix: str | None = None) -> Finding:
    """Tell what trains, but is rarely meant, or may fail later."""
    return Finding(gravity="warning", problem=Problem(what, where, fix))


def note(what: str) -> Finding:
    """Tell what was seen, in one line."""
    return Finding(gravity="note", problem=Problem(what))


def errors(
    problems: list[Problem] | tuple[Problem, ...], exit_code: ExitCode = ExitCode.USAGE
) -> list[Finding]:
    """Refuse the run for several reasons."""
    return [Finding(gravity="error", problem=problem, exit_code=exit_code) for problem in problems]


def warnings(problems: list[Problem] | tuple[Problem, ...]) -> list[Finding]:
    """Warn of several things."""
    return [Finding(gravity="warning", problem=problem) for problem in problems]
