"""With --offline: all that the run reads is here, shown in a process that reaches no network."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.finding import Finding, errors, note
from sft.check.subject import Subject
from sft.errors import ExitCode

NAME = "offline"
COST = "opens model, tokenizer and data in a process of its own"
NEEDS = "nothing"


def look(subject: Subject) -> Iterator[Finding]:
    """Tell what is here, and what `sft fetch` has to bring."""
    if subject.found is None:
        return
    yield from (note(f"offline: {line}") for line in subject.found.lines)
    yield from errors(subject.found.problems, ExitCode.ENVIRONMENT)
