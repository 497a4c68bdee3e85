"""The plan fits: the bill of a GPU against its memory."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.finding import Finding, error, note, warning
from sft.check.place import model_shape
from sft.check.subject import Subject
from sft.errors import ExitCode
from sft.units import gib

NAME = "memory"
COST = "config.json and the headers of the weights"
NEEDS = "a plan"


def look(subject: Subject) -> Iterator[Finding]:
    """Refuse what is likely to run out of memory; warn where only the bound is above it."""
    if subject.option is None or subject.option.estimate.job.device == "cpu":
        return
    bill = subject.option.estimate.device
    said = f"{bill.title}: about {gib(bill.likely)}, at most {gib(bill.at_most)}"
    if bill.capacity is None:
        yield note(said)
    elif bill.likely > bill.capacity:
        what = f"the run does not fit: {said}, and there are {gib(bill.capacity)}"
        yield error(what, "the plan", _fix(subject, bill.capacity), exit_code=ExitCode.DOES_NOT_FIT)
    elif not bill.fits:
        what = f"the run may not fit: {said}, and there are {gib(bill.capacity)}"
        yield warning(what, "the plan", _fix(subject, bill.capacity))
    else:
        yield note(f"{said}, of {gib(bill.capacity)}")


def _fix(subject: Subject, capacity: int) -> str:
    from sft.plan.changes import ways_to_fit

    shape = model_shape(subject.config)
    assert subject.option is not None
    ways = ways_to_fit(shape, subject.option.estimate.job, capacity, most=3) if shape is not None else []
    told = "; or ".join(way.line() for way in ways)
    return told or "use more or larger GPUs, or a smaller model: `sft plan` shows the bill"
