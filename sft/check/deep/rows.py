"""The rows of a rehearsal: the first of each split, as they stand in the user's files, and how long they may be.

Both functions run in a process that reaches no network (`sft.check.sealed`), which the user's own functions are called
in. Rows are written as they were read, so that the rehearsal's launch takes them through reader, template, mask and
packing itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sft.config.loader import load_run
from sft.data.block import Part, Split
from sft.data.prepare import preview
from sft.data.readers.read import parse, read_blocks
from sft.data.source import open_splits
from sft.errors import UserError

TAKE = "sft.check.deep.rows:take"
CHOOSE = "sft.check.deep.rows:choose_length"
ROLES = ("train", "test")
ROWS = 512
"""Rows to train on that are taken, at most: packed, they make some dozens."""


def take(path: str, words: list[str], place: str, limits: dict[str, int]) -> dict[str, int]:
    """Write the first rows of each split of a run as JSON lines, `train.jsonl` and `test.jsonl`; return how many.

    Args:
        limits: how many rows of each split to take; of a mixture, as many of each of its parts.

    Raises:
        UserError: a data set is not on this machine, or cannot be read.
    """
    config = load_run(Path(path), words).config
    splits = open_splits(
        config.script,
        config.mixture,
        evaluates=config.training.eval_strategy != "no",
        validation_fraction=config.kit.validation_fraction,
        dataset_mixture=config.kit.dataset_mixture,
    )
    written = {}
    Path(place).mkdir(parents=True, exist_ok=True)
    for role, split in zip(ROLES, splits, strict=True):
        if split is not None:
            lines = [json.dumps(row, default=str) + "\n" for row in _first(split, limits[role])]
            Path(place, f"{role}.jsonl").write_text("".join(lines), encoding="utf-8")
            written[role] = len(lines)
    return {**written, "parts": max(len(split.parts) for split in splits if split is not None)}


def choose_length(path: str, lengths: list[int]) -> int:
    """Return the first of some lengths at which half of the rows have something left to learn; else the last.

    Args:
        path: the rehearsal's run file.
        lengths: the last is the run's own, and what is wrong with that the launch will say.
    """
    for length in lengths[:-1]:
        loaded = load_run(Path(path), ["--max_length", str(length)])
        try:
            with preview(loaded, ROWS, _say_nothing) as entry:
                if all(_kept(entry.summary(role)) for role in entry.manifest["splits"]):
                    return length
        except UserError:
            continue
    return lengths[-1]


def _say_nothing(line: str) -> None:
    """Leave out what the launch will say of the same rows."""


def _kept(summary: Any) -> bool:
    """Whether at least half of the rows that were read are trained."""
    return bool(2 * (summary.trained + summary.truncated) >= summary.rows_read)


def _first(split: Split, limit: int) -> Iterator[dict[str, Any]]:
    each = max(1, limit // len(split.parts))
    for part in split.parts:
        yield from islice(_rows(part), each)


def _rows(part: Part) -> Iterator[dict[str, Any]]:
    for block in read_blocks(part, 64):
        for _, row in parse(block):
            yield row
