"""Directories that `save_to_disk` wrote: one data set, or several splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sft.data.block import SourceFile
from sft.errors import UserError

AGAIN = "write the directory again with save_to_disk"


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote this directory."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def saved_files(name: str) -> dict[str, tuple[SourceFile, ...]]:
    """Return the files of every split of a saved data set.

    Raises:
        UserError: a file of it is missing or cannot be read.
    """
    path = Path(name)
    if not (path / "dataset_dict.json").is_file():
        return {"train": _files(name)}
    splits = _read(f"{name}/dataset_dict.json").get("splits")
    if not isinstance(splits, list) or not splits:
        raise UserError("the file names no splits", where=f"{name}/dataset_dict.json", fix=AGAIN)
    return {str(split): _files(f"{name}/{split}") for split in splits}


def _files(name: str) -> tuple[SourceFile, ...]:
    state_name = f"{name}/state.json"
    if not Path(state_name).is_file():
        raise UserError(f"the saved data set lacks {state_name}", where=name, fix=AGAIN)
    state = _read(state_name)
    if state.get("_indices_data_files"):
        what = "the data set was saved with indices beside its rows, which `datasets` no longer reads"
        raise UserError(what, where=state_name, fix=AGAIN)
    shards = [f"{name}/{shard['filename']}" for shard in state.get("_data_files", [])]
    missing = [shard for shard in shards if not Path(shard).is_file()]
    if missing:
        what = f"the saved data set lacks {len(missing)} of its {len(shards)} files: {Path(missing[0]).name}"
        raise UserError(what, where=name, fix=f"copy the whole directory, or {AGAIN}")
    return tuple(SourceFile(path=shard, kind="arrow", name=shard) for shard in shards)


def _read(name: str) -> dict[str, Any]:
    try:
        value = json.loads(Path(name).read_bytes())
    except ValueError as error:
        raise UserError("the file is not valid JSON", where=name, fix=AGAIN) from error
    return value if isinstance(value, dict) else {}
