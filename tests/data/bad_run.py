"""Read what settings of a run file lead to, as a run does, down to the last row."""

from __future__ import annotations

from typing import Any

from sft.config.run import DatasetMixtureConfig, ScriptArguments
from sft.data.block import Split
from sft.data.readers.read import parse, read_blocks
from sft.data.source import open_splits


def open_all(settings: dict[str, Any]) -> tuple[Split, Split | None]:
    """Open the splits of some keys of a run file; `evaluates` stands for an eval_strategy that is not `no`."""
    script = {key: value for key, value in settings.items() if key in ScriptArguments.model_fields}
    mixed = {key: value for key, value in settings.items() if key in DatasetMixtureConfig.model_fields}
    return open_splits(
        ScriptArguments(**script),
        DatasetMixtureConfig.model_validate(mixed),
        evaluates=settings.get("evaluates", False),
        validation_fraction=settings.get("validation_fraction"),
        dataset_mixture=settings.get("dataset_mixture"),
    )


def rows_of(split: Split) -> list[dict[str, Any]]:
    """Read all rows of a split, in the order of its files."""
    return [row for part in split.parts for block in read_blocks(part) for _, row in parse(block)]


def read_all(settings: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows to train on, and those to test on."""
    train, test = open_all(settings)
    return rows_of(train), rows_of(test) if test else []
