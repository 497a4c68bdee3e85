"""Settings that fail together, do nothing together, or train something else."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.finding import Finding, errors
from sft.check.subject import Subject
from sft.plan.combinations import check_combinations

NAME = "combinations"
COST = "nothing"
NEEDS = "a plan"


def look(subject: Subject) -> Iterator[Finding]:
    """Apply every rule of docs/combinations.md."""
    assert subject.plan is not None
    yield from errors(check_combinations(subject.config, subject.plan))
