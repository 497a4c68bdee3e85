"""Data sets that are read while they are trained on, as TRL's own script reads them: through `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.data.hub import refusals
from sft.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    from sft.config.library import DatasetMixtureConfig, ScriptArguments

BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}
TRAINABLE = ("messages", "conversations", "prompt", "text", "input_ids")
"""A row can be trained if it has one of these columns, or dataset_text_field, or is formatted by the user."""


def load_splits(script: ScriptArguments, mixture: DatasetMixtureConfig) -> Any:
    """Load what the run file names, as TRL's own script does, local files too.

    Raises:
        UserError: it is not there, cannot be read, or is on a Hub that cannot be reached.
    """
    if mixture.datasets:
        return _load_mixture(mixture)
    assert script.dataset_name is not None
    return _load(script.dataset_name, script.dataset_config, script.dataset_streaming)


def load_streaming(script: ScriptArguments, mixture: DatasetMixtureConfig) -> Any:
    """Load what the run file names so that its rows are read while they are trained on."""
    streamed = {"dataset_streaming": True} if not mixture.datasets else {}
    mixed = {"streaming": True} if mixture.datasets else {}
    return load_splits(script.model_copy(update=streamed), mixture.model_copy(update=mixed))


def _load(name: str, configuration: str | None, streaming: bool) -> DatasetDict | IterableDatasetDict:
    import datasets

    path = Path(name)
    with refusals(name, "dataset_name"):
        if path.is_file():
            builder = BUILDERS.get(path.suffix.lower())
            if builder is None:
                raise UserError(
                    f"{name} is of no known kind of file",
                    where="dataset_name",
                    fix=f"use one of {', '.join(BUILDERS)}",
                )
            return datasets.load_dataset(builder, data_files=str(path), streaming=streaming)
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(name)
        if (path / "state.json").is_file():
            return datasets.DatasetDict(train=datasets.load_from_disk(name))
        if not path.exists() and (path.is_absolute() or name.startswith(("./", "../"))):
            raise UserError(f"there is no data set at {name}", where="dataset_name", fix="check the path")
        return datasets.load_dataset(name, name=configuration, streaming=streaming)


def _load_mixture(mixture: DatasetMixtureConfig) -> Any:
    """Concatenate the parts as TRL's `get_dataset` does: `fraction` needs no oversampling."""
    import datasets

    parts = []
    for part in mixture.datasets:
        with refusals(part.path, "datasets"):
            loaded = datasets.load_dataset(
                part.path,
                name=part.name,
                data_dir=part.data_dir,
                data_files=part.data_files,
                split=part.split,
                streaming=mixture.streaming,
            )
        parts.append(loaded.select_columns(part.columns) if part.columns else loaded)
    fractions = [part.fraction for part in mixture.datasets]
    if any(fraction is not None for fraction in fractions):
        parts = _apply_fractions(parts, fractions, mixture.streaming)
    whole = datasets.concatenate_datasets(parts)
    if mixture.test_split_size is not None and not mixture.streaming:
        return whole.train_test_split(test_size=mixture.test_split_size)
    kind = datasets.IterableDatasetDict if mixture.streaming else datasets.DatasetDict
    return kind({"train": whole})


def _apply_fractions(parts: list[Any], fractions: list[float | None], streaming: bool) -> list[Any]:
    if streaming or any(fraction is None for fraction in fractions):
        raise UserError(
            "fraction must be set for every data set of a mixture, and not with streaming",
            where="datasets",
            fix="set fraction everywhere or nowhere",
        )
    shares = [fraction / sum(f or 0.0 for f in fractions) for fraction in fractions if fraction is not None]
    size = min(len(part) / share for part, share in zip(parts, shares, strict=True))
    return [part.select(range(round(size * share))) for part, share in zip(parts, shares, strict=True)]


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
