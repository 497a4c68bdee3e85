"""A data set's name leads to files, split by split, whatever kind of name it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sft.config.loader import load_run
from sft.config.run import ScriptArguments
from sft.data.source import find_splits
from sft.errors import UserError
from tests.data.bad_files import ROW, parquet_bytes
from tests.data.bad_run import open_all, read_all, rows_of


def splits_of(name: object, **values: Any) -> dict[str, list[str]]:
    """Return the files of every split, below the data set's own name."""
    found = find_splits(ScriptArguments(dataset_name=str(name), **values))
    return {
        split: [file.name.removeprefix(f"{name}/") for part in parts for file in part.files]
        for split, parts in found.items()
    }


def write(directory: Path, *names: str, content: bytes = ROW) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def test_local_file_is_the_train_split(tmp_path: Path) -> None:
    write(tmp_path, "rows.jsonl")
    assert splits_of(tmp_path / "rows.jsonl") == {"train": [str(tmp_path / "rows.jsonl")]}
    train, test = open_all({"dataset_name": str(tmp_path / "rows.jsonl")})
    assert (train.name, train.order_seed, test) == ("train", None, None)
    assert rows_of(train) == [{"text": "a"}]


def test_relative_path_is_told_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "data/rows.jsonl", "data/test.jsonl")
    monkeypatch.chdir(tmp_path)
    train, _ = open_all({"dataset_name": "data/rows.jsonl"})
    assert train.parts[0].files[0].place(3) == "data/rows.jsonl:3"
    train, _ = open_all({"dataset_name": "data/*.jsonl"})
    assert [file.name for file in train.parts[0].files] == ["data/rows.jsonl", "data/test.jsonl"]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("b.jsonl", "a.jsonl"), {"train": ["a.jsonl", "b.jsonl"]}),
        (("train.jsonl", "test.jsonl"), {"train": ["train.jsonl"], "test": ["test.jsonl"]}),
        (
            ("my_training_1.jsonl", "my_training_2.jsonl", "my-dev.jsonl", "eval.jsonl"),
            {
                "train": ["my_training_1.jsonl", "my_training_2.jsonl"],
                "validation": ["my-dev.jsonl"],
                "test": ["eval.jsonl"],
            },
        ),
        (("train/a.jsonl", "val/deep/b.jsonl"), {"train": ["train/a.jsonl"], "validation": ["val/deep/b.jsonl"]}),
        (("train/test1.jsonl", "test/b.jsonl"), {"train": ["train/test1.jsonl"], "test": ["test/b.jsonl"]}),
        (("strained.jsonl", "contest.jsonl"), {"train": ["contest.jsonl", "strained.jsonl"]}),
        (
            ("data/train_sft-00000-of-00002.jsonl", "data/train_sft-00001-of-00002.jsonl",
             "data/test_gen-00000-of-00001.jsonl"),
            {"test_gen": ["data/test_gen-00000-of-00001.jsonl"],
             "train_sft": ["data/train_sft-00000-of-00002.jsonl", "data/train_sft-00001-of-00002.jsonl"]},
        ),
        (("Train.jsonl", "TEST.json"), {"train": ["Train.jsonl"], "test": ["TEST.json"]}),
    ],
)  # fmt: skip
def test_files_and_folders_name_the_splits(
    tmp_path: Path, names: tuple[str, ...], splits: dict[str, list[str]]
) -> None:
    write(tmp_path, *names)
    write(tmp_path, ".hidden/x.csv", ".y.csv", "__cache__/z.csv", "README.md", "LICENSE", "dataset_info.json")
    found = splits_of(tmp_path)
    assert found == splits
    assert list(found) == list(splits)


def test_glob_takes_what_matches_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", "a.jsonl", "c.csv", "deep/d.jsonl")
    assert splits_of(tmp_path / "*.jsonl") == {"train": [f"{tmp_path}/{name}.jsonl" for name in "ab"]}
    assert len(splits_of(tmp_path / "**/*.jsonl")["train"]) == 3


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    write(tmp_path, "rows[1].jsonl")
    assert splits_of(tmp_path / "rows[1].jsonl") == {"train": [str(tmp_path / "rows[1].jsonl")]}


def test_directories_of_save_to_disk(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"text": text} for text in "abcde"])
    rows.save_to_disk(tmp_path / "one", num_shards=2)
    rows.select([3, 1]).save_to_disk(tmp_path / "chosen")
    datasets.DatasetDict(train=rows, validation=rows.select([0])).save_to_disk(tmp_path / "both")
    assert splits_of(tmp_path / "one") == {"train": [f"data-0000{n}-of-00002.arrow" for n in (0, 1)]}
    assert list(splits_of(f"{tmp_path}/both")) == ["train", "validation"]
    for name, texts in (("one", "abcde"), ("chosen", "db"), ("both", "abcde")):
        train, _ = read_all({"dataset_name": f"{tmp_path}/{name}/"})
        assert [row["text"] for row in train] == list(texts)


def test_a_readme_with_configurations_is_read_by_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "set", "first.jsonl", "second.jsonl")
    write(tmp_path / "set", "second.jsonl", content=ROW * 2)
    readme = "---\nconfigs:\n- config_name: {}\n  data_files:\n  - split: train\n    path: {}.jsonl\n"
    text = readme.format("one", "first") + readme.format("two", "second").removeprefix("---\nconfigs:\n")
    (tmp_path / "set" / "README.md").write_text(text + "---\n# A set\n")
    named = {"dataset_name": str(tmp_path / "set")}
    assert len(read_all({**named, "dataset_config": "two"})[0]) == 2
    assert len(read_all({**named, "dataset_config": "one"})[0]) == 1


def test_a_set_of_the_hub_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from datasets.arrow_writer import ArrowWriter

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    cached = tmp_path / "someone___chats" / "default" / "0.0.0" / ("a" * 40)
    cached.mkdir(parents=True)
    features = datasets.Features({"text": datasets.Value("string")})
    info = datasets.DatasetInfo(
        features=features, dataset_name="chats", config_name="default", version="0.0.0"
    )
    info.splits = datasets.SplitDict(dataset_name="chats")
    for split, texts in (("train", "abc"), ("test", "d")):
        with ArrowWriter(path=str(cached / f"chats-{split}.arrow"), features=features) as writer:
            for text in texts:
                writer.write({"text": text})
            writer.finalize()
        info.splits.add(datasets.SplitInfo(name=split, num_examples=len(texts), dataset_name="chats"))
    info.write_to_directory(str(cached))
    train, test = open_all(
        {"dataset_name": "someone/chats", "evaluates": True, "dataset_train_split": "train[1:]"}
    )
    assert test is not None
    assert [row["text"] for row in rows_of(train) + rows_of(test)] == ["b", "c", "d"]
    assert train.parts[0].files[0].place(2) == "someone/chats/chats-train.arrow row 2"


def test_evaluation_takes_the_test_split(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", "validation.jsonl")
    named = {"dataset_name": str(tmp_path), "evaluates": True}
    train, test = open_all({**named, "dataset_test_split": "validation"})
    assert test is not None
    assert (train.name, test.name) == ("train", "test")
    with pytest.raises(UserError) as caught:
        open_all(named)
    assert str(caught.value) == (
        "the data set has no split 'test'\n"
        "  where: dataset_test_split\n"
        "  fix:   set dataset_test_split to one of: train, validation; or hold rows out with validation_fraction; "
        "or set eval_strategy: no"
    )


def test_a_broken_row_far_in_is_not_met_by_opening(tmp_path: Path) -> None:
    """Opening looks at the first rows alone: it must not read a large set twice."""
    write(tmp_path, "rows.jsonl", content=ROW * 1000 + b"broken\n")
    train, _ = open_all({"dataset_name": str(tmp_path / "rows.jsonl")})
    with pytest.raises(UserError):
        rows_of(train)


def test_files_of_one_part_may_be_without_rows(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", content=b"text\n")
    write(tmp_path, "b.csv", content=b"text\nb\n")
    assert read_all({"dataset_name": str(tmp_path)})[0] == [{"text": "b"}]


def test_parquet_files_of_a_directory(tmp_path: Path) -> None:
    write(tmp_path, "train-00000.parquet", "train-00001.parquet", content=parquet_bytes())
    train, _ = read_all({"dataset_name": str(tmp_path)})
    assert [row["text"] for row in train] == ["a", "b", "a", "b"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_other_things_than_files_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    write(tmp_path, "rows.jsonl")
    assert splits_of(tmp_path) == {"train": ["rows.jsonl"]}


def test_loader_reads_no_data(tmp_path: Path) -> None:
    """A run file is read on a login node: its data set is loaded later."""
    words = ["--model_name_or_path", "m", "--dataset_name", str(tmp_path / "gone.jsonl")]
    assert load_run(None, words, environment={}).config.script.dataset_name == str(tmp_path / "gone.jsonl")


def test_the_run_file_takes_one_name_for_its_data(tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(
        "model_name_or_path: m\ndataset_mixture:\n  datasets:\n  - id: $HOME/a.jsonl\n    weight: 0.5\n"
    )
    loaded = load_run(run, [], environment={"HOME": "/home/me"})
    assert loaded.config.kit.dataset_mixture == {"datasets": [{"id": "/home/me/a.jsonl", "weight": 0.5}]}
    with pytest.raises(UserError) as caught:
        load_run(run, ["--dataset_name", "b"], environment={"HOME": "/home/me"})
    assert str(caught.value) == (
        f"dataset_mixture and dataset_name both name the data\n  where: {run}:2\n  fix:   keep one"
    )


def test_a_large_file_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reading allocates does not grow with the file."""
    import tracemalloc

    from sft.data.readers import files, json_rows
    from sft.data.readers.read import parse, read_blocks

    for module in (files, json_rows):
        monkeypatch.setattr(module, "CHUNK_BYTES", 16 << 10)
    row = '{"text": "some words of a row"}'
    peaks = []
    for rows in (2_000, 8_000):
        for name, text in (
            ("rows.jsonl", f"{row}\n" * rows),
            ("rows.json", "[" + ",\n".join([row] * rows) + "]"),
            ("rows.csv", "text\n" + "some words of a row\n" * rows),
        ):
            (tmp_path / name).write_text(text)
            train, _ = open_all({"dataset_name": str(tmp_path / name)})
            tracemalloc.start()
            for block in read_blocks(train.parts[0], 100):
                for _ in parse(block):
                    pass
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    for small, large in zip(peaks[:3], peaks[3:], strict=True):
        assert large < 1.2 * small
