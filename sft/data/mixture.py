"""Mixtures of data sets: TRL's `datasets:` and the `dataset_mixture:` of Hugging Face's alignment-handbook."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sft.data.block import Part
from sft.data.locate import Wanted, locate
from sft.data.splits import HELD_OUT_SEED, Ordinals, Parts, choose, count, cut, select, train_test_split
from sft.errors import UserError

if TYPE_CHECKING:
    from sft.config.library import DatasetMixtureConfig

HANDBOOK = "dataset_mixture"
TRL = "datasets"


@dataclass(frozen=True, slots=True)
class Member:
    """One data set of a mixture.

    Attributes:
        fraction: its target share of the mixture, relative to the others'; nothing is taken twice.
        weight: the share of its own rows that is taken, chosen by the mixture's seed.
    """

    wanted: Wanted
    split: str = "train"
    columns: tuple[str, ...] | None = None
    fraction: float | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Mixture:
    """Data sets that are trained on together.

    Attributes:
        key: the key of the run file.
        order_seed: shuffles the rows; None keeps the members one after another.
        test_size: share of the mixed rows that is cut off as the split `test`.
    """

    key: str
    members: tuple[Member, ...]
    order_seed: int | None = None
    test_size: float | None = None


def open_mixture(mixture: Mixture) -> dict[str, Parts]:
    """Find the rows of a mixture, as the split `train`, and `test` where a share is cut off.

    `fraction` is TRL's arithmetic (`get_dataset` of trl/scripts/utils.py); so is `test_split_size`, whose rows TRL
    draws anew in each run: here the draw has a fixed seed. `weight` and the cut of a `dataset_mixture` choose the
    rows that alignment-handbook chooses; the order, shuffled by the same seed, is our own.

    Raises:
        UserError: a data set or split is not there, or a share comes to no row.
    """
    members = [
        tuple(
            replace(part, columns=member.columns)
            for part in select(
                {name: (Part(member.wanted.path, files),) for name, files in locate(member.wanted).items()},
                member.split,
                mixture.key,
            )
        )
        for member in mixture.members
    ]
    if mixture.order_seed is not None:
        return _as_the_handbook(mixture, members, mixture.order_seed)
    if any(member.fraction is not None for member in mixture.members):
        members = _apply_fractions(mixture, members)
    whole = tuple(part for parts in members for part in parts)
    if mixture.test_size is None:
        return {"train": whole}
    train, test = train_test_split(whole, mixture.test_size, HELD_OUT_SEED, mixture.key)
    return {"train": train, "test": test}


def _as_the_handbook(mixture: Mixture, members: Sequence[Parts], seed: int) -> dict[str, Parts]:
    """Choose rows by weight and cut: each data set is shuffled for its weight, and all again before the cut."""
    taken: list[Ordinals] = []
    before = 0
    for member, parts in zip(mixture.members, members, strict=True):
        rows = count(parts)
        kept = int(rows * member.weight)
        if kept == 0:
            what = f"weight {member.weight} of {member.wanted.path} comes to none of its {rows} rows"
            raise UserError(what, where=mixture.key, fix="give it a larger weight, or remove it")
        taken.append(before + np.random.default_rng(seed).permutation(rows)[:kept])
        before += rows
    whole = tuple(part for parts in members for part in parts)
    chosen = np.concatenate(taken)
    if mixture.test_size is None:
        return {"train": choose(whole, chosen)}
    shuffled = chosen[np.random.default_rng(seed).permutation(len(chosen))]
    train, test = cut(len(chosen), mixture.test_size, seed, mixture.key)
    return {"train": choose(whole, shuffled[train]), "test": choose(whole, shuffled[test])}


def _apply_fractions(mixture: Mixture, members: Sequence[Parts]) -> list[Parts]:
    """Take the first rows of each, as many as make the largest mixture of these shares without a row twice."""
    key = mixture.key
    fractions = [member.fraction for member in mixture.members if member.fraction is not None]
    if len(fractions) != len(members):
        what = "fraction is set for some data sets of the mixture and not for others"
        raise UserError(what, where=key, fix="set fraction everywhere or nowhere")
    if min(fractions) < 0 or sum(fractions) == 0:
        raise UserError(
            "a fraction must not be negative, nor all be 0", where=key, fix="give positive shares"
        )
    shares = [fraction / sum(fractions) for fraction in fractions]
    lengths = [count(parts) for parts in members]
    size = min(length / share for length, share in zip(lengths, shares, strict=True) if share > 0)
    taken: list[Parts] = []
    for member, parts, share in zip(mixture.members, members, shares, strict=True):
        rows = round(share * size)
        if rows == 0 and share > 0:
            what = f"fraction {member.fraction} of {member.wanted.path} comes to no row in a mixture of {size:.0f}"
            raise UserError(what, where=key, fix="give it a larger share, or remove it")
        taken.append(choose(parts, np.arange(rows, dtype=np.int64)))
    return taken


def from_trl(mixture: DatasetMixtureConfig) -> Mixture:
    """Read TRL's mixture."""
    return Mixture(
        key=TRL,
        members=tuple(
            Member(
                Wanted(part.path, TRL, part.name, part.data_dir, part.data_files),
                split=part.split,
                columns=None if part.columns is None else tuple(part.columns),
                fraction=part.fraction,
            )
            for part in mixture.datasets
        ),
        test_size=mixture.test_split_size,
    )


MIXTURE_KEYS = ("datasets", "seed", "test_split_size")
MEMBER_KEYS = ("id", "config", "split", "columns", "weight")


def read_handbook_mixture(value: Mapping[str, Any]) -> Mixture:
    """Read a mixture as alignment-handbook writes it; its seed is 0 and its split train where it says none.

    Raises:
        UserError: a key is unknown or missing, or a value cannot be.
    """
    _check_keys(value, MIXTURE_KEYS, HANDBOOK)
    items = value.get("datasets")
    if not isinstance(items, list) or not items:
        raise _wrong(f"{HANDBOOK} lists no datasets", "write `datasets:` with an `- id:` for each below it")
    seed, size = value.get("seed", 0), value.get("test_split_size")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise _wrong(f"{HANDBOOK}.seed is a whole number, not {seed!r}", "give a number such as 0")
    if size is not None and (
        isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 < size < 1
    ):
        raise _wrong(f"{HANDBOOK}.test_split_size must lie between 0 and 1, not be {size!r}", "give a share")
    members = tuple(_member(item, f"{HANDBOOK}.datasets[{place}]") for place, item in enumerate(items))
    return Mixture(HANDBOOK, members, order_seed=seed, test_size=None if size is None else float(size))


def _member(item: Any, place: str) -> Member:
    if not isinstance(item, Mapping):
        raise _wrong(f"{place} is a mapping with an id, not {item!r}", "write `- id: ...`")
    _check_keys(item, MEMBER_KEYS, place)
    weight, columns = item.get("weight"), item.get("columns")
    if not isinstance(item.get("id"), str):
        raise _wrong(f"{place} has no id", "add `id:` with the data set's name or path")
    for key in ("config", "split"):
        if item.get(key) is not None and not isinstance(item[key], str):
            raise _wrong(f"{place}.{key} is text, not {item[key]!r}", "write it in quotes")
    if columns is not None and (
        not isinstance(columns, list) or not all(isinstance(name, str) for name in columns)
    ):
        raise _wrong(f"{place}.columns is a list of names, not {columns!r}", "write `columns: [messages]`")
    if weight is not None and (
        isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight <= 1
    ):
        what = f"{place}.weight must be above 0 and at most 1, not {weight!r}"
        raise _wrong(what, "give the share of its rows to take, 1 for all")
    return Member(
        Wanted(item["id"], HANDBOOK, item.get("config")),
        split=item.get("split") or "train",
        columns=None if columns is None else tuple(columns),
        weight=1.0 if weight is None else float(weight),
    )


def _check_keys(value: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    for key in value:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
            fix = f"did you mean {close[0]}?" if close else f"one of: {', '.join(known)}"
            raise _wrong(f"{place} has no key {key}", fix)


def _wrong(what: str, fix: str) -> UserError:
    return UserError(what, where=HANDBOOK, fix=fix)
