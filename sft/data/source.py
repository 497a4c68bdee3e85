"""The two splits of a run, as files and the rows of them that belong to each. No torch, and nothing is loaded.

Every data set is reduced to files here: what a name may be stands in `locate`, mixtures in `mixture`, split
expressions in `splits`. How rows become tokens is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from sft.data.block import Part, Split
from sft.data.locate import Wanted, locate
from sft.data.mixture import Mixture, from_trl, open_mixture, read_handbook_mixture
from sft.data.readers.read import parse, read_blocks
from sft.data.splits import Parts, hold_out, select
from sft.errors import UserError

if TYPE_CHECKING:
    from sft.config.library import DatasetMixtureConfig, ScriptArguments

ROWS_LOOKED_AT = 64


def open_splits(
    script: ScriptArguments,
    mixture: DatasetMixtureConfig,
    *,
    evaluates: bool,
    validation_fraction: float | None = None,
    dataset_mixture: Mapping[str, Any] | None = None,
) -> tuple[Split, Split | None]:
    """Find the rows to train on and, where the run evaluates, those to test on.

    A fraction to validate on is cut off the training rows by a fixed draw, whatever the run's seed; the rest is
    trained on.

    Args:
        dataset_mixture: the mixture as alignment-handbook writes it, in place of the other two.
    Raises:
        UserError: a data set or split is not there or has no rows, or a file cannot be read.
    """
    mixed = _mixture(mixture, dataset_mixture)
    splits = find_splits(script, mixed)
    key, order_seed = (mixed.key, mixed.order_seed) if mixed else ("dataset_name", None)
    train = select(splits, script.dataset_train_split, "dataset_train_split")
    test: Parts = ()
    if evaluates and validation_fraction is not None:
        _check_one_test_split(script, mixed)
        train, test = hold_out(train, validation_fraction)
    elif evaluates:
        test = select(splits, script.dataset_test_split, "dataset_test_split")
    _check_rows("train", train, key)
    if not evaluates:
        return Split("train", train, order_seed), None
    _check_rows("test", test, key)
    return Split("train", train, order_seed), Split("test", test, order_seed)


def find_splits(script: ScriptArguments, mixed: Mixture | None = None) -> dict[str, Parts]:
    """Find every split of what the run file names, or of a mixture instead.

    Raises:
        UserError: it is not there, or its files cannot be read.
    """
    if mixed is not None:
        return open_mixture(mixed)
    assert script.dataset_name is not None
    wanted = Wanted(script.dataset_name, "dataset_name", script.dataset_config)
    return {name: (Part(wanted.path, files),) for name, files in locate(wanted).items()}


def _mixture(mixture: DatasetMixtureConfig, dataset_mixture: Mapping[str, Any] | None) -> Mixture | None:
    if dataset_mixture is not None:
        return read_handbook_mixture(dataset_mixture)
    return from_trl(mixture) if mixture.datasets else None


def _check_one_test_split(script: ScriptArguments, mixed: Mixture | None) -> None:
    other = "dataset_test_split" if "dataset_test_split" in script.model_fields_set else None
    if mixed is not None and mixed.test_size is not None:
        other = "test_split_size"
    if other:
        raise UserError(
            f"validation_fraction and {other} both say which rows to test on",
            where="validation_fraction",
            fix="keep one",
        )


def _check_rows(name: str, parts: Parts, key: str) -> None:
    """Refuse a split of which some part has no rows or lacks a column, as far as its first rows tell."""
    for part in parts:
        # Of all its rows, not of those that it keeps: that there are such is known, and they may stand far in.
        block = next(read_blocks(replace(part, keep=None), ROWS_LOOKED_AT), None)
        if block is None or (part.keep is not None and not len(part.keep)):
            what = f"the data set {part.name} has no rows in its split {name!r}"
            raise UserError(what, where=key, fix="add rows, or name another split")
        if part.columns is None:
            continue
        whole = replace(block, columns=None)
        columns = list(
            dict.fromkeys(column for _, row in islice(parse(whole), ROWS_LOOKED_AT) for column in row)
        )
        missing = [column for column in part.columns if column not in columns]
        if missing:
            what = f"the data set {part.name} has no column {missing[0]}; it has {', '.join(columns)}"
            raise UserError(what, where=key, fix="name columns that it has")
