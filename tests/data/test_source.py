"""Data sets from files, directories and mixtures; what cannot be had is told by where and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.config.loader import load_run
from sft.config.run import DatasetMixtureConfig, ScriptArguments
from sft.data.source import check_columns, load_splits, pick_split
from sft.errors import ExitCode, UserError
from tests import tiny


def load(**values: Any) -> Any:
    return load_splits(ScriptArguments(**values), DatasetMixtureConfig())


def mixture(parts: list[dict[str, Any]], **values: Any) -> Any:
    return load_splits(ScriptArguments(), DatasetMixtureConfig.model_validate({"datasets": parts, **values}))


def write(directory: Path, kind: str) -> Path:
    """Write the same three rows as a file of this kind."""
    import datasets

    rows = datasets.Dataset.from_list([{"text": text} for text in ("one", "two", "three")])
    path = directory / f"rows.{kind}"
    if kind == "txt":
        path.write_text("one\ntwo\nthree\n")
    elif kind in ("json", "jsonl"):
        rows.to_json(path)
    elif kind == "csv":
        rows.to_csv(path)
    else:
        rows.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet", "txt"])
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_local_file_is_the_train_split(tmp_path: Path, kind: str, streaming: bool) -> None:
    splits = load(dataset_name=str(write(tmp_path, kind)), dataset_streaming=streaming)
    assert list(splits) == ["train"]
    assert [row["text"] for row in splits["train"]] == ["one", "two", "three"]


def test_directory_has_the_splits_that_its_files_name(tmp_path: Path) -> None:
    tiny.write_chats(tmp_path / "train.jsonl", 5)
    tiny.write_chats(tmp_path / "test.jsonl", 2)
    splits = load(dataset_name=str(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == {"train": 5, "test": 2}


def test_directories_of_save_to_disk(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"text": "one"}])
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, validation=rows).save_to_disk(tmp_path / "both")
    assert list(load(dataset_name=str(tmp_path / "one"))) == ["train"]
    assert list(load(dataset_name=str(tmp_path / "both"))) == ["train", "validation"]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "gone.jsonl",
            None,
            "there is no data set at {path}\n  where: dataset_name\n  fix:   check the path",
        ),
        (
            "rows.xlsx",
            "?",
            "{path} is of no known kind of file\n  where: dataset_name\n"
            "  fix:   use one of .json, .jsonl, .csv, .parquet, .arrow, .txt",
        ),
        (
            "rows.jsonl",
            "",
            "the data set {path} has no rows in its split 'train'\n  where: dataset_name\n"
            "  fix:   add rows, or remove the empty file",
        ),
        (
            "rows.jsonl",
            '{"text": "a"}\n\n{"text": }\n',
            "the data set {path} cannot be read: JSON parse error: Invalid value. in row 1\n"
            "  where: {path}:3\n  fix:   mend the file",
        ),
    ],
    ids=["missing", "unknown kind", "empty", "broken"],
)
def test_file_that_cannot_be_had(tmp_path: Path, name: str, content: str | None, text: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        load(dataset_name=str(path))
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == text.format(path=path)


def test_name_on_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        load(dataset_name="nobody/nothing-of-this-name")
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    problem = caught.value.problems[0]
    assert problem.what.startswith(
        "the data set nobody/nothing-of-this-name is not in the cache and the Hub cannot be reached: "
    )
    assert problem.fix == "fetch it where there is a network, or name a local file"


def test_mixture_is_concatenated_and_split(tmp_path: Path) -> None:
    one, two = (tiny.write_chats(tmp_path / f"{n}.jsonl", n) for n in (6, 4))
    parts = [{"path": "json", "data_files": str(path)} for path in (one, two)]
    assert {name: len(split) for name, split in mixture(parts).items()} == {"train": 10}
    split = mixture(parts, test_split_size=0.2)
    assert {name: len(part) for name, part in split.items()} == {"train": 8, "test": 2}


def test_mixture_by_fractions_needs_no_row_twice(tmp_path: Path) -> None:
    one, two = (tiny.write_chats(tmp_path / f"{n}.jsonl", n) for n in (30, 4))
    parts = [
        {"path": "json", "data_files": str(path), "fraction": fraction}
        for path, fraction in ((one, 0.6), (two, 0.4))
    ]
    assert len(mixture(parts)["train"]) == 10  # 4 rows are 0.4 of it


def test_mixture_with_a_part_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        mixture([{"path": "json", "data_files": str(tmp_path / "gone.jsonl")}])
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.problems[0].what.startswith("the data set json cannot be loaded: ")
    assert caught.value.problems[0].where == "datasets"


def test_fraction_of_some_parts_only_is_refused(tmp_path: Path) -> None:
    path = str(tiny.write_chats(tmp_path / "rows.jsonl", 4))
    with pytest.raises(UserError) as caught:
        mixture([{"path": "json", "data_files": path, "fraction": 0.5}, {"path": "json", "data_files": path}])
    assert str(caught.value) == (
        "fraction must be set for every data set of a mixture, and not with streaming\n"
        "  where: datasets\n"
        "  fix:   set fraction everywhere or nowhere"
    )


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


def test_loader_reads_no_data(tmp_path: Path) -> None:
    """A run file is read on a login node: its data set is loaded later, by the ranks."""
    words = ["--model_name_or_path", "m", "--dataset_name", str(tmp_path / "gone.jsonl")]
    assert load_run(None, words, environment={}).config.script.dataset_name == str(tmp_path / "gone.jsonl")
