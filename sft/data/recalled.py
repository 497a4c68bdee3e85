"""Remember which Arrow files `data_files` or `data_dir` of a data set on the Hub came to.

`datasets` names its cache by what these patterns match on the Hub, which cannot be asked where there is no network; so
offline it does not find what it fetched itself.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sft.files import write_whole

Splits = dict[str, list[str]]


def note_of(cache: Path, name: str, *given: Any) -> Path:
    """Return where the answer to one call of `load_dataset` is noted."""
    digest = hashlib.sha256(json.dumps([name, *given], sort_keys=True, default=list).encode()).hexdigest()
    return cache / "sft" / f"{digest[:32]}.json"


def remember(note: Path, splits: Splits) -> None:
    """Write down the files of every split."""
    write_whole(note, json.dumps(splits))


def recall(note: Path) -> Splits | None:
    """Return the files of every split, if they were noted and all are there."""
    try:
        splits: Splits = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    there = all(Path(file).is_file() for files in splits.values() for file in files)
    return splits if there else None
