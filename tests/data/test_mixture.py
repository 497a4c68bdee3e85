"""Mixtures take the rows that TRL and alignment-handbook take of the same data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft.data.mixture import Member, Mixture, read_handbook_mixture
from sft.data.splits import HELD_OUT_SEED
from sft.errors import UserError
from tests import tiny
from tests.data.bad_run import open_all, read_all


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, of 30 and 4 rows with the columns text and n."""
    directory = tmp_path_factory.mktemp("mixture")
    for name, rows in (("a", 30), ("b", 4)):
        tiny.write_rows(directory / f"{name}.jsonl", [{"text": f"{name}{n}", "n": n} for n in range(rows)])
    return directory


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in rows]


def of_trl(
    here: Path, parts: list[dict[str, Any]], seed: int | None = None, **values: Any
) -> dict[str, list[str]]:
    """Return what TRL's own function makes of it, with a seed for what it draws."""
    from trl import DatasetMixtureConfig, get_dataset
    from trl.scripts.utils import DatasetConfig

    if seed is not None:
        state = np.random.get_state()
        np.random.set_state(("MT19937", np.full(624, seed, dtype=np.uint32), 0, 0, 0.0))
    found = get_dataset(DatasetMixtureConfig(datasets=[DatasetConfig(**part) for part in parts], **values))
    if seed is not None:
        np.random.set_state(state)
    return {name: list(split["text"]) for name, split in found.items()}


PARTS = {
    "whole": ({}, {}),
    "fractions": ({"fraction": 0.6}, {"fraction": 0.4}),
    "fractions that do not sum to one": ({"fraction": 3.0}, {"fraction": 1.7}),
    "one fraction of nothing": ({"fraction": 0.0}, {"fraction": 0.4}),
    "slices": ({"split": "train[10%:50%]"}, {"split": "train[-1:]"}),
    "columns": ({"columns": ["text"]}, {"columns": ["text", "n"]}),
    "fractions of slices": ({"split": "train[:5]", "fraction": 0.5}, {"fraction": 0.5}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("cut", [None, 0.3], ids=["whole", "cut"])
def test_rows_are_those_that_trl_takes(here: Path, case: str, cut: float | None) -> None:
    files = [{"path": "json", "data_files": str(here / f"{name}.jsonl")} for name in "ab"]
    parts = [{**file, **more} for file, more in zip(files, PARTS[case], strict=True)]
    train, test = read_all({"datasets": parts, "test_split_size": cut, "evaluates": cut is not None})
    theirs = of_trl(here, parts, HELD_OUT_SEED, test_split_size=cut)
    if cut is None:
        assert texts(train) == theirs["train"]
    else:
        assert (sorted(texts(train)), sorted(texts(test))) == (
            sorted(theirs["train"]),
            sorted(theirs["test"]),
        )


def test_fractions_need_no_row_twice(here: Path) -> None:
    parts = [
        {"path": str(here / "a.jsonl"), "fraction": 0.6},
        {"path": str(here / "b.jsonl"), "fraction": 0.4},
    ]
    train, _ = read_all({"datasets": parts})
    assert texts(train) == [f"a{n}" for n in range(6)] + [f"b{n}" for n in range(4)]  # 4 rows are 0.4 of 10


def test_columns_are_those_of_each_data_set(here: Path) -> None:
    parts = [
        {"path": str(here / "b.jsonl"), "columns": ["n"], "split": "train[:1]"},
        {"path": str(here / "b.jsonl")},
    ]
    train, _ = read_all({"datasets": parts})
    assert train[:2] == [{"n": 0}, {"text": "b0", "n": 0}]


@pytest.mark.parametrize(
    "part",
    [
        {"path": "{here}", "data_files": "a.jsonl"},
        {"path": "json", "data_files": ["{here}/a.json*"]},
        {
            "path": "json",
            "data_files": {"train": "{here}/b.jsonl", "more": "{here}/a.jsonl"},
            "split": "more",
        },
        {"path": "{here}/..", "data_dir": "{here.name}", "data_files": "a.jsonl"},
    ],
    ids=["below a directory", "a pattern", "by split", "below data_dir"],
)
def test_data_files_name_local_files(here: Path, part: dict[str, Any]) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        return [filled(item) for item in value] if isinstance(value, list) else value.format(here=here)

    train, _ = read_all({"datasets": [filled(part)]})
    assert texts(train) == [f"a{n}" for n in range(30)]


def test_a_cut_of_a_mixture_is_the_same_each_time(here: Path) -> None:
    settings = {"datasets": [{"path": str(here / "a.jsonl")}], "test_split_size": 0.1, "evaluates": True}
    train, test = read_all(settings)
    assert texts(test) == [f"a{n}" for n in (7, 16, 29)]
    assert read_all(settings) == (train, test)


def of_handbook(here: Path, weights: dict[str, float], seed: int, size: float | None) -> dict[str, list[str]]:
    """Mix with `datasets` as alignment-handbook describes it."""
    import datasets

    parts = []
    for name, weight in weights.items():
        rows = datasets.load_dataset("json", data_files=str(here / f"{name}.jsonl"), split="train")
        parts.append(rows.shuffle(seed=seed).select(range(int(len(rows) * weight))))
    whole = datasets.concatenate_datasets(parts).shuffle(seed=seed)
    if size is None:
        return {"train": list(whole["text"])}
    return {
        name: list(rows["text"]) for name, rows in whole.train_test_split(test_size=size, seed=seed).items()
    }


@pytest.mark.parametrize("size", [None, 0.2])
@pytest.mark.parametrize(("weights", "seed"), [({"a": 0.5, "b": 1.0}, 0), ({"b": 0.5, "a": 0.33}, 7)])
def test_rows_are_those_that_the_handbook_takes(
    here: Path, weights: dict[str, float], seed: int, size: float | None
) -> None:
    members = [{"id": str(here / f"{name}.jsonl"), "weight": weight} for name, weight in weights.items()]
    value = {"datasets": members, "seed": seed, "test_split_size": size}
    train, test = read_all({"dataset_mixture": value, "evaluates": size is not None})
    theirs = of_handbook(here, weights, seed, size)
    assert sorted(texts(train)) == sorted(theirs["train"])
    assert sorted(texts(test)) == sorted(theirs.get("test", []))
    assert open_all({"dataset_mixture": value})[0].order_seed == seed


def test_a_handbook_mixture_is_read() -> None:
    value = {
        "datasets": [
            {"id": "a", "config": "c", "split": "train_sft", "columns": ["messages"], "weight": 1},
            {"id": "b"},
        ],
        "test_split_size": 0.1,
    }
    mixture = read_handbook_mixture(value)
    assert isinstance(mixture, Mixture)
    assert (mixture.key, mixture.order_seed, mixture.test_size) == ("dataset_mixture", 0, 0.1)
    first, second = mixture.members
    assert (first.wanted.path, first.wanted.configuration, first.split, first.columns, first.weight) == (
        "a", "c", "train_sft", ("messages",), 1.0,
    )  # fmt: skip
    assert second == Member(second.wanted)
    assert (second.wanted.path, second.split, second.weight) == ("b", "train", 1.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "dataset_mixture lists no datasets\n  where: dataset_mixture\n"
             "  fix:   write `datasets:` with an `- id:` for each below it"),
        ({"dataset": [{"id": "a"}]}, "dataset_mixture has no key dataset\n  where: dataset_mixture\n"
                                     "  fix:   did you mean datasets?"),
        ({"datasets": ["a"]}, "dataset_mixture.datasets[0] is a mapping with an id, not 'a'\n"
                              "  where: dataset_mixture\n  fix:   write `- id: ...`"),
        ({"datasets": [{"id": "a"}], "seed": "x"}, "dataset_mixture.seed is a whole number, not 'x'\n"
                                                   "  where: dataset_mixture\n  fix:   give a number such as 0"),
        ({"datasets": [{"id": "a"}], "test_split_size": 20},
         "dataset_mixture.test_split_size must lie between 0 and 1, not be 20\n"
         "  where: dataset_mixture\n  fix:   give a share"),
        ({"datasets": [{"id": "a", "columns": "messages"}]},
         "dataset_mixture.datasets[0].columns is a list of names, not 'messages'\n"
         "  where: dataset_mixture\n  fix:   write `columns: [messages]`"),
        ({"datasets": [{"id": "a", "split": 1}]}, "dataset_mixture.datasets[0].split is text, not 1\n"
                                                  "  where: dataset_mixture\n  fix:   write it in quotes"),
        ({"datasets": [{"id": "a", "weight": 0}]},
         "dataset_mixture.datasets[0].weight must be above 0 and at most 1, not 0\n"
         "  where: dataset_mixture\n  fix:   give the share of its rows to take, 1 for all"),
    ],
    ids=["empty", "misspelt", "no mapping", "seed", "size", "columns", "split", "weight"],
)  # fmt: skip
def test_a_handbook_mixture_that_cannot_be(value: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_handbook_mixture(value)
    assert str(caught.value) == message
