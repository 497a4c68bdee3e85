"""Data sets that `datasets` fetches, or finds in its cache: the Arrow files of that cache are what we read.

`datasets` is imported here alone, and only for what needs it: it takes a second to start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sft.data import recalled
from sft.data.block import SourceFile
from sft.errors import ExitCode, UserError

NO_ROWS = re.compile(r'Instruction "(\w+)" corresponds to no data')


def fetch(
    name: str,
    key: str,
    configuration: str | None = None,
    data_dir: str | None = None,
    data_files: str | list[str] | dict[str, str] | None = None,
) -> dict[str, tuple[SourceFile, ...]]:
    """Return the files of every split of what `load_dataset` finds under a name.

    Args:
        key: the run file's key that named it.
    Raises:
        UserError: it is not there, cannot be read, or is on a Hub that cannot be reached.
    """
    import datasets

    note = None
    if (data_dir or data_files) and not Path(name).exists():
        cache = Path(datasets.config.HF_DATASETS_CACHE)
        note = recalled.note_of(cache, name, configuration, data_dir, data_files)
    splits = recalled.recall(note) if note is not None and datasets.config.HF_HUB_OFFLINE else None
    if splits is None:
        with refusals(name, key):
            loaded: dict[Any, Any] = datasets.load_dataset(
                name, name=configuration, data_dir=data_dir, data_files=data_files, keep_in_memory=False
            )
            splits = {
                str(split): [cached["filename"] for cached in rows.cache_files]
                for split, rows in loaded.items()
            }
            if note is not None:
                recalled.remember(note, splits)
    return {split: tuple(_file(name, file) for file in files) for split, files in splits.items()}


def _file(name: str, path: str) -> SourceFile:
    return SourceFile(path=path, kind="arrow", name=f"{name}/{Path(path).name}")


@contextmanager
def refusals(name: str, key: str) -> Iterator[None]:
    """Turn what `datasets` raises for a data set that cannot be had into problems that the user can mend."""
    import datasets

    try:
        yield
    except StopIteration as error:  # of its own, where the first file of a data set is empty
        raise _no_rows(name, "train", key) from error
    except ConnectionError as error:
        raise UserError(
            f"the data set {name} is not in the cache and the Hub cannot be reached: {_first_line(error)}",
            where=key,
            fix="fetch it where there is a network, or name a local file",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ValueError) as error:
        empty = NO_ROWS.search(str(error))
        if empty:
            raise _no_rows(name, empty[1], key) from error
        raise UserError(
            f"the data set {name} cannot be loaded: {_first_line(error)}",
            where=key,
            fix="check the name, its configuration (dataset_config) and your access to it",
        ) from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise UserError(
            f"the data set {name} cannot be read: {_first_line(error.__cause__ or error)}",
            where=_broken_line(Path(name)) or key,
            fix="mend the file",
        ) from error
    except OSError as error:
        raise UserError(
            f"the data set {name} cannot be fetched, or not be kept in the cache: {_first_line(error)}",
            where=key,
            fix="check the network, and that HF_HOME or HF_DATASETS_CACHE can be written",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error


def _no_rows(name: str, split: str, key: str) -> UserError:
    what = f"the data set {name} has no rows in its split {split!r}"
    return UserError(what, where=key, fix="add rows, or remove the empty file")


def _broken_line(path: Path) -> str | None:
    """Find the first line of a local file, or of a directory's, that is no JSON: the library names a block."""
    files = [path] if path.is_file() else sorted(path.rglob("*.jsonl"))
    for file in files:
        if file.suffix.lower() != ".jsonl":
            continue
        with file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    json.loads(line)
                except json.JSONDecodeError:
                    if line.strip():
                        return f"{file}:{number}"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
