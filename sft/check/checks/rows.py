"""The first rows go through the whole way that the data takes: reader, template, mask, packing."""

from __future__ import annotations

import os
from collections.abc import Iterator

from sft.check.answers import data_question, remembered
from sft.check.finding import Finding, note, warnings
from sft.check.subject import Subject
from sft.config.run import RunConfig
from sft.data.unprepared import unprepared_reason

NAME = "data"
COST = (
    "loads the tokenizer, and prepares the first rows of each split; remembered while no file of them changes"
)
NEEDS = "nothing"

ROWS_LOOKED_AT = 512
"""Rows of each split that a check prepares."""


def look(subject: Subject) -> Iterator[Finding]:
    """Prepare the first rows of a data set that lies on this machine; what is refused is refused by what prepares it."""
    if subject.found is not None and subject.found.rows is not None:
        return  # all rows have been opened, which says more
    if {
        subject.config.model.model_name_or_path,
        subject.config.script.dataset_name,
    } & subject.unreachable.keys():
        return  # told with the plan
    config = subject.config
    reason = unprepared_reason(config)
    if reason is not None:
        yield note(reason)
    elif not _is_here(config):
        yield note(
            "the rows are looked at by the launch, or by `sft data stats`: not all of it is on this machine"
        )
    else:
        question = {"what": "first rows", "rows": ROWS_LOOKED_AT, **data_question(config)}
        yield from remembered(config, question, lambda: _prepare(subject))


def _prepare(subject: Subject) -> Iterator[Finding]:
    from sft.data.advice import advice
    from sft.data.prepare import preview

    with preview(subject.loaded, ROWS_LOOKED_AT) as entry:
        yield from (note(f"first rows of {line}") for line in entry.lines())
        yield from warnings(advice(subject.loaded, entry))


def _is_here(config: RunConfig) -> bool:
    data = [config.script.dataset_name, *(source.path for source in config.mixture.datasets)]
    names = [config.model.model_name_or_path, *data]
    return config.kit.dataset_mixture is None and all(os.path.exists(name) for name in names if name)
