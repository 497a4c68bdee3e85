"""Split expressions mean what they mean in `datasets`, and what is held out is always the same."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.block import Part
from sft.data.readers.kinds import describe
from sft.data.readers.read import parse, read_blocks
from sft.data.splits import Parts, count, cut, hold_out, select, train_test_split
from tests import tiny
from tests.data.bad_run import read_all


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parts]:
    """23 and 9 numbered rows, the first in two files."""
    here = tmp_path_factory.mktemp("numbered")
    ends = {"train": (0, 10, 23), "test": (23, 32)}
    splits: dict[str, Parts] = {}
    for split, bounds in ends.items():
        paths = [
            tiny.write_rows(here / f"{split}{start}.jsonl", [{"n": n} for n in range(start, end)])
            for start, end in pairwise(bounds)
        ]
        splits[split] = (
            Part(split, tuple(describe(str(path), path.name, "dataset_name") for path in paths)),
        )
    return splits


def numbers(parts: Parts) -> list[int]:
    found = [row["n"] for part in parts for block in read_blocks(part, 4) for _, row in parse(block)]
    assert len(found) == count(parts)
    return found


EXPRESSIONS = [
    "train",
    "test",
    "train[:90%]",
    "train[90%:]",
    "train[10:20]",
    "train[-10:]",
    "train[:-3]",
    "train[5%:50%]",
    "train[:33%](pct1_dropremainder)",
    "train+test",
    "train[:2]+test[-2:]",
    "test[:1]+train[1:2]+test[3:]",
    "train[3:1000]",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_selects_what_datasets_selects(
    numbered: dict[str, Parts], tmp_path: Path, expression: str
) -> None:
    if "pct1" in expression:  # needs a hundred rows
        pytest.importorskip("datasets")
        tiny.write_rows(tmp_path / "train.jsonl", [{"n": n} for n in range(250)])
        file = describe(str(tmp_path / "train.jsonl"), "train.jsonl", "dataset_name")
        splits: dict[str, Parts] = {"train": (Part("train", (file,)),)}
    else:
        splits = numbered
    import datasets

    files = {name: [file.path for part in parts for file in part.files] for name, parts in splits.items()}
    theirs = datasets.load_dataset(
        "json", data_files=files, split=expression, cache_dir=str(tmp_path / "cache")
    )
    assert numbers(select(splits, expression, "dataset_train_split")) == list(theirs["n"])


def test_a_slice_of_a_slice_counts_its_own_rows(numbered: dict[str, Parts]) -> None:
    once = select(numbered, "train[5:15]+test", "dataset_train_split")
    assert numbers(select({"all": once}, "all[8:12]", "dataset_train_split")) == [13, 14, 23, 24]


@settings(deadline=None)
@given(rows=st.integers(2, 300), size=st.floats(0.01, 0.9), seed=st.integers(0, 99))
def test_a_cut_is_that_of_train_test_split(rows: int, size: float, seed: int) -> None:
    import datasets

    theirs: Any = datasets.Dataset.from_dict({"n": list(range(rows))})
    try:
        theirs = theirs.train_test_split(test_size=size, seed=seed)
    except ValueError:  # nothing left to train on
        return
    train, test = cut(rows, size, seed, "datasets")
    assert (list(train), list(test)) == (list(theirs["train"]["n"]), list(theirs["test"]["n"]))


def test_what_is_cut_off_keeps_the_order_of_files(numbered: dict[str, Parts]) -> None:
    train, test = train_test_split(numbered["train"], 0.2, 7, "datasets")
    assert numbers(train) == sorted(numbers(train))
    assert sorted(numbers(train) + numbers(test)) == list(range(23))
    assert len(numbers(test)) == 5  # 4.6, rounded up


def test_what_is_held_out_is_always_the_same(numbered: dict[str, Parts]) -> None:
    train, test = hold_out(numbered["train"], 0.2)
    assert numbers(test) == [10, 16, 17, 18, 22]
    assert numbers(train) == [n for n in range(23) if n not in numbers(test)]


def test_a_fraction_is_held_out_only_where_the_run_evaluates(tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "rows.jsonl", [{"n": n} for n in range(20)])
    named = {"dataset_name": str(tmp_path / "rows.jsonl"), "validation_fraction": 0.25}
    train, test = read_all(named)
    assert (len(train), len(test)) == (20, 0)
    train, test = read_all({**named, "evaluates": True})
    assert (len(train), len(test)) == (15, 5)
    assert {row["n"] for row in train + test} == set(range(20))
    train, test = read_all({**named, "evaluates": True, "dataset_train_split": "train[:8]"})
    assert {row["n"] for row in train + test} == set(range(8))
