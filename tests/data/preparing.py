"""Prepare small data sets in a test's own directory."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.config.loader import LoadedRun, load_run
from sft.data.cache import Entry
from sft.data.prepare import prepare


def run_file(directory: Path, model: Path, data: Path | str, **settings: Any) -> LoadedRun:
    """Write and read a run file whose cache is `directory`/cache."""
    from ruamel.yaml import YAML

    directory.mkdir(parents=True, exist_ok=True)
    whole = {
        "model_name_or_path": str(model),
        "dataset_name": str(data),
        "output_dir": str(directory / "out"),
        "data_cache": str(directory / "cache"),
        **settings,
    }
    with (directory / "run.yaml").open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(whole, stream)
    return load_run(directory / "run.yaml", environment={})


def prepared(directory: Path, model: Path, data: Path | str, **settings: Any) -> Entry:
    """Prepare and return the entry; what is said to people is left out."""
    return prepare(run_file(directory, model, data, **settings), say=lambda line: None)


def rows_of(entry: Entry, split: str = "train") -> list[dict[str, Any]]:
    """Return the rows that the trainer sees."""
    return [dict(row) for row in entry.dataset(split)]


def trained_texts(entry: Entry, tokenizer: Any, split: str = "train") -> list[str]:
    """Return what carries loss in every row, as text."""
    return [
        tokenizer.decode([label for label in row["labels"] if label != -100], skip_special_tokens=False)
        for row in rows_of(entry, split)
    ]


def ledger(entry: Entry, name: str = "dropped") -> list[dict[str, Any]]:
    """Return the lines of a ledger."""
    return [json.loads(line) for line in (entry.directory / f"{name}.jsonl").read_text().splitlines()]


def in_a_process(code: str, **names: Any) -> subprocess.Popen[str]:
    """Run Python code in a process of its own; `names` are set first, as text."""
    setting = "".join(f"{name} = {str(value)!r}\n" for name, value in names.items())
    return subprocess.Popen(
        [sys.executable, "-c", setting + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


Row = Mapping[str, Any]
