"""The optional packages that the settings need are installed."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.finding import Finding
from sft.check.subject import Subject
from sft.plan.packages import require_packages

NAME = "packages"
COST = "looks for packages, and imports none"
NEEDS = "nothing"


def look(subject: Subject) -> Iterator[Finding]:
    """Look for what the optimizer, the attention and the kernels import later."""
    require_packages(subject.config)
    yield from ()
