"""What must hold of a run file whatever else is checked: reading, planning, combinations, packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sft.check.checks import NAMES, named
from sft.check.survey import survey
from sft.config.loader import LoadedRun
from sft.errors import Problem
from sft.plan.hardware import Hardware
from sft.plan.plan import Plan

ALWAYS = ("combinations", "paths", "hub_name", "packages", "precision")
"""The checks that --no-check does not leave out: what they refuse cannot train."""
DONE_BY_THE_LAUNCH = ("platform", "offline", "rows")
"""The checks whose work is a stage of the launch: it submits, proves that no network is needed, and prepares all rows."""
BEFORE_A_LAUNCH = tuple(name for name in NAMES if name not in DONE_BY_THE_LAUNCH)


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A run file in which nothing wrong was found."""

    loaded: LoadedRun
    plan: Plan
    notes: tuple[str, ...]
    warnings: tuple[Problem, ...]


def check_run(
    path: Path | None,
    words: Sequence[str] = (),
    hardware: Hardware | None = None,
    *,
    in_batch: bool = False,
    on: str = "here",
    checks: Sequence[str] = ALWAYS,
) -> CheckedRun:
    """Read, plan and check a run file.

    Args:
        in_batch: it runs in a batch job, on machines that are as it asks for them.
        on: where it is to run, as `sft launch --on` takes it.
        checks: their modules' names.

    Raises:
        UserError: all that is wrong with it, as far as one problem does not hide another.
    """
    found = survey(path, words, hardware, checks=named(checks), in_batch=in_batch, on=on)
    plan = found.require_no_errors()
    notes = tuple(finding.problem.what for finding in found.of("note"))
    warnings = tuple(finding.problem for finding in found.of("warning"))
    return CheckedRun(found.subject.loaded, plan, notes, warnings)
