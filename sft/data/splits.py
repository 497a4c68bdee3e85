"""Which rows make a split: `train`, an expression such as `train[:90%]`, or a share that is held out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np

from sft.data.block import Part, SourceFile
from sft.data.readers.files import explained
from sft.data.readers.read import count_rows
from sft.errors import UserError

Parts = tuple[Part, ...]
Ordinals = np.ndarray[Any, np.dtype[np.int64]]
HELD_OUT_SEED = 42
"""Chooses the rows that are held out. Not the run's seed: runs that differ in it are to be compared on the same
rows, and none may train on a row that another is tested on."""


def count(parts: Iterable[Part]) -> int:
    """Count the rows of parts together."""
    return sum(_length(part) for part in parts)


def _length(part: Part) -> int:
    return sum(_rows(file) for file in part.files) if part.keep is None else len(part.keep)


def _rows(file: SourceFile) -> int:
    with explained(file):
        status = os.stat(file.path)
    return _counted(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _counted(file: SourceFile, size: int, changed: int) -> int:
    """Count once: a share of a large set would otherwise read it several times."""
    return count_rows(file)


def choose(parts: Sequence[Part], ordinals: Ordinals) -> Parts:
    """Keep only the rows at these ordinals, which count over the rows of the parts together.

    The order within a part stays; parts of which nothing is kept are left out.
    """
    ordinals = np.sort(ordinals)
    chosen: list[Part] = []
    before = 0
    for part in parts:
        length = _length(part)
        first, last = np.searchsorted(ordinals, (before, before + length))
        here = (ordinals[first:last] - before).astype(np.int64)
        before += length
        if len(here) == length:
            chosen.append(part)
        elif len(here):
            chosen.append(replace(part, keep=here if part.keep is None else part.keep[here]))
    return tuple(chosen)


def select(splits: Mapping[str, Parts], expression: str, key: str) -> Parts:
    """Find the rows that a split expression of `datasets` names.

    Raises:
        UserError: it is none, names a split that is not there, or selects no rows.
    """
    if expression in splits:
        return splits[expression]
    names = [re.split(r"[\[(]", term)[0] for term in re.split(r"\s*\+\s*", expression.strip())]
    if not all(re.fullmatch(r"\w+(\.\w+)*", name) for name in names):
        raise _no_expression(expression, key)
    for name in names:
        if name not in splits:
            fix = f"set {key} to one of: {', '.join(splits)}"
            if key not in ("dataset_train_split", "dataset_test_split"):
                fix = f"set its split to one of: {', '.join(splits)}"
            if key == "dataset_test_split":
                fix += "; or hold rows out with validation_fraction; or set eval_strategy: no"
            raise UserError(f"the data set has no split {name!r}", where=key, fix=fix)
    from datasets import ReadInstruction

    lengths = {name: count(splits[name]) for name in dict.fromkeys(names)}
    try:
        pieces = ReadInstruction.from_spec(expression.strip()).to_absolute(lengths)
    except ValueError as error:
        raise _no_expression(expression, key) from error
    parts: list[Part] = []
    for piece, term in zip(pieces, re.split(r"\s*\+\s*", expression.strip()), strict=True):
        if piece.from_ >= piece.to:
            what = f"{term} selects none of the {lengths[piece.splitname]} rows of {piece.splitname}"
            raise UserError(what, where=key, fix="widen the slice")
        whole = piece.to - piece.from_ == lengths[piece.splitname]
        rows = splits[piece.splitname]
        parts += rows if whole else choose(rows, np.arange(piece.from_, piece.to, dtype=np.int64))
    return tuple(parts)


def _no_expression(expression: str, key: str) -> UserError:
    what = f"{expression!r} is no split, as `datasets` writes them"
    return UserError(
        what, where=key, fix="write it as in train, train[:90%], train[100:200] or train+validation"
    )


def hold_out(parts: Parts, fraction: float) -> tuple[Parts, Parts]:
    """Divide rows into those to train on and the fraction that is held out, always the same.

    Raises:
        UserError: none would be on one of the sides.
    """
    rows = count(parts)
    held = round(fraction * rows)
    if held in (0, rows):
        side = "leaves none to train on" if held else "holds none out"
        raise UserError(
            f"validation_fraction {fraction} of {rows} rows {side}",
            where="validation_fraction",
            fix="choose another fraction, or a split of its own with dataset_test_split",
        )
    shuffled = np.random.default_rng(HELD_OUT_SEED).permutation(rows)
    return choose(parts, shuffled[held:]), choose(parts, shuffled[:held])


def train_test_split(parts: Parts, test_size: float, seed: int, key: str) -> tuple[Parts, Parts]:
    """Divide rows into the same two sets as `Dataset.train_test_split(test_size, seed=seed)`.

    They keep the order of their files.

    Raises:
        UserError: the size is no share, or leaves nothing to train on.
    """
    train, test = cut(count(parts), test_size, seed, key)
    return choose(parts, train), choose(parts, test)


def cut(rows: int, test_size: float, seed: int, key: str) -> tuple[Ordinals, Ordinals]:
    """Return which of so many rows `Dataset.train_test_split` trains and tests on, in its order.

    Raises:
        UserError: the size is no share, or leaves nothing to train on.
    """
    if not 0 < test_size < 1:
        what = f"test_split_size must lie between 0 and 1, not be {test_size}"
        raise UserError(what, where=key, fix="give the share of the rows to test on, such as 0.05")
    held = ceil(test_size * rows)
    if held >= rows:
        what = f"test_split_size {test_size} of {rows} rows leaves none to train on"
        raise UserError(what, where=key, fix="make it smaller")
    shuffled = np.random.default_rng(seed).permutation(rows)
    return shuffled[held:], shuffled[:held]
