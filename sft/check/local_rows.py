"""The rows of data that lies on this machine: how many there are, and what the first one is. Nothing is fetched."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from sft.check.answers import Answers, data_question
from sft.check.needs import data_needs
from sft.config.run import RunConfig
from sft.errors import UserError

MOST_BYTES = 64 << 20
"""What is counted: lines are read for it, which must not hold a check up."""


def train_rows(config: RunConfig) -> int | None:
    """Count the rows of the training split; None where that is not known cheaply, or the data is refused elsewhere."""
    if not _is_small_and_here(config):
        return None
    answers = Answers(config)
    try:
        question = {"what": "rows", **data_question(config)}
    except OSError:
        return None
    known = answers.find(question)
    if known is None:
        rows = _count(config)
        if rows is not None:
            answers.keep(question, {"rows": rows})
        return rows
    return int(known["rows"])


def _count(config: RunConfig) -> int | None:
    from sft.data.source import open_splits
    from sft.data.splits import count

    try:
        train, _ = open_splits(
            config.script,
            config.mixture,
            evaluates=config.training.eval_strategy != "no",
            validation_fraction=config.kit.validation_fraction,
            dataset_mixture=config.kit.dataset_mixture,
        )
        return count(train.parts)
    except UserError:
        return None  # told where the data is prepared


def first_row(config: RunConfig) -> dict[str, Any] | None:
    """Return the first row of the first data set; None where it is not known cheaply."""
    if not _is_small_and_here(config):
        return None
    from sft.data.block import Part
    from sft.data.locate import locate
    from sft.data.readers.read import parse, read_blocks

    try:
        files = next(iter(locate(data_needs(config)[0]).values()))
        block = next(read_blocks(Part("", files[:1]), 1), None)
        rows = [] if block is None else [row for _, row in islice(parse(block), 1)]
    except UserError:
        return None
    return rows[0] if rows else None


def _is_small_and_here(config: RunConfig) -> bool:
    """Whether all of the data are local files, few enough to be read through."""
    if config.script.dataset_streaming or config.mixture.streaming:
        return False
    size = 0
    for wanted in data_needs(config):
        place = Path(wanted.path)
        if wanted.data_files is not None or not place.exists():
            return False
        for file in [place] if place.is_file() else place.rglob("*"):
            size += file.stat().st_size if file.is_file() else 0
            if size > MOST_BYTES:
                return False
    return True
