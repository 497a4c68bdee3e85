"""The plan fits: the bill of a GPU against its memory."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.finding import Finding, note
from sft.check.memory import judge
from sft.check.subject import Subject
from sft.plan.read_shape import why_unknown

NAME = "memory"
COST = "config.json and the headers of the weights"
NEEDS = "a plan"


def look(subject: Subject) -> Iterator[Finding]:
    """Judge the bill of the plan, where the model's shape is known."""
    if subject.option is not None and subject.model.shape is not None:
        yield from judge(subject, subject.option, subject.model.shape)
    elif subject.model_directory is not None and subject.plan is not None and subject.plan.device == "gpu":
        yield note(f"whether the run fits is not known: {why_unknown(subject.model_config)}")
