"""Caches of compiled kernels lie on this machine's own disk."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.finding import Finding, warnings
from sft.check.subject import Subject
from sft.launch.caches import on_shared

NAME = "caches of kernels"
COST = "the table of mounts"
NEEDS = "this machine"


def look(subject: Subject) -> Iterator[Finding]:
    """Tell caches that other machines serve. Elsewhere the nodes' own file systems count, and their launch says it."""
    yield from warnings(tuple(on_shared(subject.environment)))
