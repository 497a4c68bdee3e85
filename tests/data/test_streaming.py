"""Rows that are read while they are trained on come through `datasets`, and what cannot be streamed is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.config.run import DatasetMixtureConfig, ScriptArguments
from sft.data.streaming import check_columns, load_streaming, pick_split
from sft.errors import UserError
from tests.data.test_readers import content


def load(**values: Any) -> Any:
    return load_streaming(ScriptArguments(**values), DatasetMixtureConfig())


def mixture(parts: list[dict[str, Any]], **values: Any) -> Any:
    return load_streaming(
        ScriptArguments(), DatasetMixtureConfig.model_validate({"datasets": parts, **values})
    )


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_a_local_file_is_streamed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(content(kind))
    splits = load(dataset_name=str(path))
    assert list(splits) == ["train"]
    assert [row["text"] for row in splits["train"]][1:] == ['say "hi", you\nthere', "größer 😀", " four "]


def test_a_saved_directory_is_streamed(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"text": "one"}])
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, validation=rows).save_to_disk(tmp_path / "both")
    assert list(load(dataset_name=str(tmp_path / "one"))["train"]) == [{"text": "one"}]
    assert list(load(dataset_name=str(tmp_path / "both"))) == ["train", "validation"]


def test_a_mixture_is_streamed(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n')
    parts = [{"path": "json", "data_files": str(tmp_path / f"{name}.jsonl")} for name in "ab"]
    assert list(mixture(parts)["train"]) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"datasets": [{"path": "json", "fraction": 0.5}]},
            "fraction needs the number of rows, which is not known where they are streamed\n"
            "  where: datasets\n  fix:   remove fraction, or remove streaming",
        ),
        (
            {"datasets": [{"path": "json"}], "test_split_size": 0.1},
            "test_split_size needs the number of rows, which is not known where they are streamed\n"
            "  where: test_split_size\n  fix:   remove it, or remove streaming",
        ),
        (
            {},
            "a dataset_mixture cannot be streamed: its rows are chosen among all of them\n"
            "  where: dataset_streaming\n  fix:   remove dataset_streaming",
        ),
    ],
    ids=["fraction", "cut", "handbook"],
)
def test_what_needs_every_row_is_not_streamed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_streaming(ScriptArguments(), DatasetMixtureConfig.model_validate(values))
    assert str(caught.value) == message


def test_split_that_is_missing_or_empty() -> None:
    import datasets

    splits = {"train": datasets.Dataset.from_list([{"text": "a"}]), "none": datasets.Dataset.from_list([])}
    assert len(pick_split(splits, "train", "dataset_train_split")) == 1
    with pytest.raises(UserError) as caught:
        pick_split(splits, "test", "dataset_test_split")
    assert str(caught.value) == (
        "the data set has no split 'test'\n"
        "  where: dataset_test_split\n"
        "  fix:   set dataset_test_split to one of: train, none; or set eval_strategy: no"
    )
    with pytest.raises(UserError) as caught:
        pick_split(splits, "none", "dataset_train_split")
    assert str(caught.value) == (
        "the split 'none' is empty\n  where: dataset_train_split\n  fix:   name a split that has rows"
    )


@pytest.mark.parametrize(
    ("column", "text_field", "formatted"),
    [
        ("messages", "text", False),
        ("prompt", "text", False),
        ("body", "body", False),
        ("anything", "text", True),
    ],
)
def test_columns_that_can_be_trained(column: str, text_field: str, formatted: bool) -> None:
    import datasets

    check_columns(datasets.Dataset.from_list([{column: "a"}]), text_field, formatted)


def test_columns_that_cannot() -> None:
    import datasets

    with pytest.raises(UserError) as caught:
        check_columns(datasets.Dataset.from_list([{"body": "a"}]), "text", False)
    assert str(caught.value) == (
        "the data set has none of the columns messages, conversations, prompt, text, input_ids or text; it has body\n"
        "  where: dataset_name\n"
        "  fix:   rename a column, set dataset_text_field, or give a formatting_func"
    )
