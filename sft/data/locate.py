"""What a data set's name leads to: files, split by split.

A name is a local file, a directory, a glob, a directory that `save_to_disk` wrote, or an id on the Hub.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from sft.data.block import Kind, SourceFile
from sft.data.hub import fetch
from sft.data.readers.kinds import BUILDERS, COMPRESSIONS, SUFFIXES, describe, kind_of
from sft.data.saved import is_saved, saved_files
from sft.errors import UserError

Files = dict[str, tuple[SourceFile, ...]]
SPLIT_WORDS: dict[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
SHARD = re.compile(r"(?:.*/)?data/(\w+)-\d{5}-of-\d{5}[^/]*$")
"""How `push_to_hub` names files, whatever the split is called."""
NOT_ROWS = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Files that describe a data set."""
CONFIGURED = re.compile(r"\A---\s*\n(?:.*\n)*?configs:", re.MULTILINE)
FAMILY: dict[Kind, str] = {"jsonl": "JSON", "json": "JSON", "csv": "CSV", "tsv": "TSV", "text": "text"}
UNKNOWN_PACKING = {".bz2", ".xz", ".zip", ".lz4", ".7z"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A data set as the run file names it; the members are those of `load_dataset`.

    Attributes:
        key: the key of the run file that named it.
    """

    path: str
    key: str
    configuration: str | None = None
    data_dir: str | None = None
    data_files: str | Sequence[str] | dict[str, str] | None = None


def locate(wanted: Wanted) -> Files:
    """Find the files of every split.

    Raises:
        UserError: there are none, they are of more than one kind, or which split they belong to is not clear.
    """
    path = Path(wanted.path)
    if wanted.data_files is not None and not _is_remote(wanted):
        return _named(wanted)
    if wanted.path in BUILDERS and wanted.data_dir is not None and not path.exists():
        return _directory(wanted.data_dir, wanted.key)
    if path.is_dir() and wanted.data_dir is not None:
        return _directory(f"{wanted.path.rstrip('/')}/{wanted.data_dir}", wanted.key)
    if path.is_file():
        return {"train": (describe(wanted.path, wanted.path, wanted.key),)}
    if path.is_dir():
        if is_saved(path):
            return saved_files(wanted.path.rstrip("/"))
        if wanted.configuration is None and not _is_configured(path):
            return _directory(wanted.path, wanted.key)
    elif glob.has_magic(wanted.path):
        return {"train": _same_kind(_describe(_matches(wanted.path, wanted.key), wanted.key), wanted)}
    elif _is_surely_local(wanted.path):
        raise UserError(f"there is no data set at {wanted.path}", where=wanted.key, fix="check the path")
    elif wanted.path in BUILDERS and wanted.data_files is None:
        what = f"{wanted.path} is a kind of file, and no file is named"
        raise UserError(what, where=wanted.key, fix="add data_files, or give the file's path as the name")
    given = wanted.data_files
    files = list(given) if isinstance(given, (list, tuple)) else given
    return fetch(wanted.path, wanted.key, wanted.configuration, wanted.data_dir, files)  # type: ignore[arg-type]


def _is_surely_local(name: str) -> bool:
    path = PurePath(name)
    kind, compression = kind_of(name)
    local = path.is_absolute() or name.startswith(("./", "../", "~")) or len(path.parts) > 2
    return local or kind is not None or compression is not None


def _is_remote(wanted: Wanted) -> bool:
    """Whether the files are named inside a data set of the Hub, or by address."""
    files = wanted.data_files
    names = (
        [files]
        if isinstance(files, str)
        else list(files.values() if isinstance(files, dict) else files or ())
    )
    local = wanted.path in BUILDERS or Path(wanted.path).is_dir()
    return not local or any("://" in str(name) for name in names)


def _is_configured(path: Path) -> bool:
    readme = path / "README.md"
    return readme.is_file() and bool(
        CONFIGURED.match(readme.read_text("utf-8", errors="replace").split("\n---")[0])
    )


def _named(wanted: Wanted) -> Files:
    """Find what `data_files` names, below a directory or where the path is only the name of a kind."""
    files = wanted.data_files
    assert files is not None
    kind = BUILDERS.get(wanted.path)
    base = Path(wanted.path) if Path(wanted.path).is_dir() else Path()
    base /= wanted.data_dir or ""
    named = files if isinstance(files, dict) else {"train": files}
    splits: Files = {}
    for split, patterns in named.items():
        names: list[str] = []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            where = str(base / pattern)
            if not Path(where).exists() and glob.has_magic(where):
                names += _matches(where, wanted.key)
            elif Path(where).is_dir():
                raise UserError(
                    f"data_files names a directory: {where}", where=wanted.key, fix=f"write {where}/*"
                )
            elif not Path(where).exists():
                raise UserError(f"there is no file {where}", where=wanted.key, fix="check data_files")
            else:
                names.append(where)
        splits[split] = _same_kind(_describe(names, wanted.key, kind), wanted)
    return splits


def _matches(pattern: str, key: str) -> list[str]:
    found = sorted(name for name in glob.glob(pattern, recursive=True) if Path(name).is_file())
    if not found:
        raise UserError(f"no file matches {pattern}", where=key, fix="check the pattern")
    return found


def _describe(names: Iterable[str], key: str, kind: Kind | None = None) -> tuple[SourceFile, ...]:
    return tuple(describe(name, name, key, kind) for name in names)


def _same_kind(files: tuple[SourceFile, ...], wanted: Wanted) -> tuple[SourceFile, ...]:
    _check_kinds([(file.name, file.kind) for file in files], wanted.path, wanted.key)
    return files


def _check_kinds(files: Sequence[tuple[str, Kind]], name: str, key: str) -> None:
    first_name, first = files[0]
    for other_name, other in files:
        if FAMILY.get(other, other) != FAMILY.get(first, first):
            raise UserError(
                f"{name} has files of two kinds: {first_name} and {other_name}",
                where=key,
                fix="keep one kind in it, or name the files with a pattern such as *.jsonl",
            )


def _directory(name: str, key: str) -> Files:
    root = Path(name)
    if not root.is_dir():
        raise UserError(f"there is no directory {name}", where=key, fix="check the path")
    found: list[tuple[str, Kind]] = []
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if any(part.startswith((".", "__")) for part in inside.parts) or not path.is_file():
            continue
        if path.suffix.lower() in UNKNOWN_PACKING:
            what = f"{name} has a file that cannot be unpacked: {inside}"
            raise UserError(what, where=key, fix=f"pack it with {' or '.join(COMPRESSIONS)}, or move it away")
        kind, _ = kind_of(path.name)
        if kind is not None and path.name not in NOT_ROWS:
            found.append((inside.as_posix(), kind))
    if not found:
        what = f"the directory {name} has no files of rows"
        raise UserError(what, where=key, fix=f"put files in it that end in {', '.join(SUFFIXES)}")
    _check_kinds(found, name, key)
    splits: dict[str, list[str]] = {}
    for file, split in _assign([file for file, _ in found], name, key):
        splits.setdefault(split, []).append(file)
    first = ("train", "validation", "test")
    order = sorted(splits, key=lambda split: (first.index(split) if split in first else len(first), split))
    base = name.rstrip("/")
    return {
        split: tuple(describe(f"{base}/{file}", f"{base}/{file}", key) for file in splits[split])
        for split in order
    }


def _assign(files: Sequence[str], name: str, key: str) -> list[tuple[str, str]]:
    """Give every file its split: of its directory's name, else of its own; all are `train` where none says so."""
    assigned: list[tuple[str, str | None]] = []
    for file in files:
        shard = SHARD.match(file)
        *directories, own = PurePath(file).parts
        words = [split for part in directories for split in _words(part)] or _words(own)
        if not shard and len(set(words)) > 1:
            what = f"the name of {file} in {name} speaks of two splits: {' and '.join(dict.fromkeys(words))}"
            raise UserError(what, where=key, fix="rename it")
        assigned.append((file, shard[1] if shard else words[0] if words else None))
    if all(split is None for _, split in assigned):
        return [(file, "train") for file in files]
    for file, split in assigned:
        if split is None:
            other = next(other for other, found in assigned if found)
            what = f"{name} has files of named splits, such as {other}, and {file}, which belongs to none"
            raise UserError(what, where=key, fix="put train or test into its name, or move it away")
    return [(file, split) for file, split in assigned if split is not None]


def _words(name: str) -> list[str]:
    found = (SPLIT_WORDS.get(word) for word in re.split(r"[-._ 0-9]+", name.lower()))
    return [split for split in found if split]
