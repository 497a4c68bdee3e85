"""What the platform that the run goes to would refuse."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.finding import Finding, errors
from sft.check.subject import Subject

NAME = "platform"
COST = "nothing"
NEEDS = "a plan"


def look(subject: Subject) -> Iterator[Finding]:
    """Ask the platform's own module."""
    assert subject.plan is not None
    if subject.on != "here":
        from sft.launch.platform import platform

        yield from errors(tuple(platform(subject.on).problems(subject.loaded, subject.plan)))
