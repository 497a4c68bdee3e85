"""Data sets that are read while they are trained on, as TRL's own script reads them: through `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.data.hub import refusals
from sft.data.readers.kinds import SUFFIXES, kind_of
from sft.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset, IterableDatasetDict

    from sft.config.library import DatasetMixtureConfig, ScriptArguments

TRAINABLE = ("messages", "conversations", "prompt", "text", "input_ids")
"""A row can be trained if it has one of these columns, or dataset_text_field, or is formatted by the user."""


def load_streaming(script: ScriptArguments, mixture: DatasetMixtureConfig) -> IterableDatasetDict:
    """Find the splits of what the run file names; their rows are read as they are asked for.

    Raises:
        UserError: it is not there, is on a Hub that cannot be reached, or is a mixture that cannot be streamed.
    """
    if mixture.datasets:
        return _load_mixture(mixture)
    if script.dataset_name is None:
        what = "a dataset_mixture cannot be streamed: its rows are chosen among all of them"
        raise UserError(what, where="dataset_streaming", fix="remove dataset_streaming")
    return _load(script.dataset_name, script.dataset_config)


def _load(name: str, configuration: str | None) -> IterableDatasetDict:
    import datasets

    path = Path(name)
    with refusals(name, "dataset_name"):
        if path.is_file():
            return _load_file(name)
        if (path / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(name).items()
            return datasets.IterableDatasetDict({split: rows.to_iterable_dataset() for split, rows in saved})
        if (path / "state.json").is_file():
            return datasets.IterableDatasetDict(train=datasets.load_from_disk(name).to_iterable_dataset())
        if not path.exists() and (path.is_absolute() or name.startswith(("./", "../"))):
            raise UserError(f"there is no data set at {name}", where="dataset_name", fix="check the path")
        return datasets.load_dataset(name, name=configuration, streaming=True)


def _load_file(name: str) -> IterableDatasetDict:
    import datasets

    kind, _ = kind_of(name)
    if kind is None:
        raise UserError(
            f"{name} is of no known kind of file",
            where="dataset_name",
            fix=f"use one of {', '.join(SUFFIXES)}",
        )
    builder = {"jsonl": "json", "tsv": "csv"}.get(kind, kind)
    options: dict[str, Any] = {"delimiter": "\t"} if kind == "tsv" else {}
    return datasets.load_dataset(builder, data_files=name, streaming=True, **options)


def _load_mixture(mixture: DatasetMixtureConfig) -> IterableDatasetDict:
    import datasets

    if any(part.fraction is not None for part in mixture.datasets):
        what = "fraction needs the number of rows, which is not known where they are streamed"
        raise UserError(what, where="datasets", fix="remove fraction, or remove streaming")
    if mixture.test_split_size is not None:
        what = "test_split_size needs the number of rows, which is not known where they are streamed"
        raise UserError(what, where="test_split_size", fix="remove it, or remove streaming")
    parts = []
    for part in mixture.datasets:
        with refusals(part.path, "datasets"):
            loaded = datasets.load_dataset(
                part.path,
                name=part.name,
                data_dir=part.data_dir,
                data_files=part.data_files,
                split=part.split,
                streaming=True,
            )
        parts.append(loaded.select_columns(part.columns) if part.columns else loaded)
    return datasets.IterableDatasetDict({"train": datasets.concatenate_datasets(parts)})


def pick_split(splits: Any, name: str, key: str) -> Dataset | IterableDataset:
    """Return one split.

    Raises:
        UserError: it is not there, or empty.
    """
    if name not in splits:
        fix = f"set {key} to one of: {', '.join(map(str, splits))}"
        if key == "dataset_test_split":
            fix += "; or set eval_strategy: no"
        raise UserError(f"the data set has no split {name!r}", where=key, fix=fix)
    split = splits[name]
    if hasattr(split, "__len__") and len(split) == 0:
        raise UserError(f"the split {name!r} is empty", where=key, fix="name a split that has rows")
    return split


def check_columns(split: Any, text_field: str, formatted: bool) -> None:
    """Refuse rows that nothing can be trained on, before a model is loaded.

    Raises:
        UserError: none of the columns that TRL trains on is there.
    """
    columns = split.column_names
    if formatted or columns is None or text_field in columns or any(name in columns for name in TRAINABLE):
        return
    raise UserError(
        f"the data set has none of the columns {', '.join(TRAINABLE)} or {text_field}; it has {', '.join(columns)}",
        where="dataset_name",
        fix="rename a column, set dataset_text_field, or give a formatting_func",
    )
