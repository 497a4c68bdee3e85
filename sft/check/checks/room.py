"""There is room for the checkpoints, the model, the merged model and the prepared data."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.disk import look_at_disk
from sft.check.finding import Finding, errors, note
from sft.check.subject import Subject
from sft.errors import ExitCode

NAME = "room on disk"
COST = "the headers of the weights, and the free bytes and quota of a file system"
NEEDS = "a plan"


def look(subject: Subject) -> Iterator[Finding]:
    """Hold what the run will write against what there is room for."""
    assert subject.plan is not None
    rows = subject.found.rows if subject.found is not None else None
    model = str(subject.model_directory) if subject.model_directory else None
    tensors = subject.model.tensors
    trained = subject.option.estimate.held.trained if subject.option is not None else None
    lines, problems = look_at_disk(
        subject.loaded, subject.plan, model=model, tensors=tensors, rows=rows, trained=trained
    )
    yield from (note(line) for line in lines)
    yield from errors(problems, ExitCode.ENVIRONMENT)
