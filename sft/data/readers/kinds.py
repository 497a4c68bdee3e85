"""Which kind of file a name stands for, and what a `.json` really holds."""

from __future__ import annotations

import json
import re
from pathlib import PurePath

from sft.data.block import Compression, Kind, SourceFile
from sft.data.readers.files import open_bytes, refuse, without_bom
from sft.errors import UserError

SUFFIXES: dict[str, Kind] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
BUILDERS: dict[str, Kind] = {
    "json": "json",
    "csv": "csv",
    "parquet": "parquet",
    "arrow": "arrow",
    "text": "text",
}
"""The names under which `datasets` reads files of one kind, whatever their suffix."""
HEAD_BYTES = 1 << 20
HOLDER = re.compile(r'\s*\{\s*"((?:[^"\\]|\\.)*)"\s*:\s*\[\s*(?=[{\]])')
PART_OF_A_ROW = {"role", "from", "function", "type", "name"}
"""Keys of the objects that a row itself lists: messages and tools. A holder lists rows, which have none of them."""


def kind_of(path: str) -> tuple[Kind | None, Compression | None]:
    """Tell the kind and the compression by the suffixes; the kind is None where they say nothing."""
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression:
        suffixes.pop()
    return (SUFFIXES.get(suffixes[-1]) if suffixes else None), compression


def describe(path: str, name: str, key: str, kind: Kind | None = None) -> SourceFile:
    """Make the source file of a path; of JSON, it looks inside for whether it is an array or lines.

    Args:
        key: the run file's key that named it.
        kind: what it is read as where its suffix says nothing; a `.tsv` stays one.
    Raises:
        UserError: it is of no known kind, cannot be read, is empty, or holds its rows inside an object.
    """
    by_suffix, compression = kind_of(path)
    if kind is None or (kind == "csv" and by_suffix == "tsv") or (kind == "json" and by_suffix == "jsonl"):
        kind = by_suffix
    if kind is None:
        raise UserError(
            f"{name} is of no known kind of file",
            where=key,
            fix=f"use one of {', '.join(SUFFIXES)}, also with {' or '.join(COMPRESSIONS)}",
        )
    file = SourceFile(path=path, kind=kind, name=name, compression=compression)
    with open_bytes(file) as stream:
        head = without_bom(file, stream.read(HEAD_BYTES))
    _refuse_stand_in(file, head)
    if not head.strip() and len(head) < HEAD_BYTES:
        raise refuse(file, "the file is empty", "add rows, or remove the file")
    if kind not in ("json", "jsonl"):
        return file
    whole = len(head) < HEAD_BYTES - 3
    settled = _json_or_lines(file, head.lstrip().decode("utf-8", errors="replace"), whole)
    return SourceFile(path=path, kind=settled, name=name, compression=compression)


def _refuse_stand_in(file: SourceFile, head: bytes) -> None:
    """Refuse what a failed download leaves under the name of the data."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise refuse(
            file, "the file is a pointer of Git LFS, not the data", "run `git lfs pull` where it was cloned"
        )
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise refuse(file, "the file is a web page, not data", "fetch it again: the address may want a login")


def _json_or_lines(file: SourceFile, head: str, whole: bool) -> Kind:
    line, _, rest = head.partition("\n")
    alone = whole and not rest.strip()
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        first = None
    if head.startswith("["):
        # A list in the first of several lines is a broken row of a file of lines.
        return "jsonl" if file.kind == "jsonl" and first is not None and not alone else "json"
    if file.kind == "jsonl":
        return "jsonl"
    _refuse_holder(file, head, first if alone else _whole(head) if whole and first is None else None)
    return "jsonl" if first is not None or not head.startswith("{") or "\n" not in head else "json"


def _whole(head: str) -> object:
    try:
        return json.loads(head)
    except (ValueError, RecursionError):
        return None


def _refuse_holder(file: SourceFile, head: str, row: object) -> None:
    """Refuse rows that lie inside an object, such as {"data": [...]}: as it stands, it would be one row."""
    key: str | None = None
    if isinstance(row, dict):
        lists = {name: value for name, value in row.items() if isinstance(value, list)}
        key = next((name for name, value in lists.items() if value and _is_row(value[0])), None)
        if len(row) == 1 and list(lists.values()) == [[]]:
            key = next(iter(lists))
    elif found := HOLDER.match(head):
        try:
            first, _ = json.JSONDecoder().raw_decode(head, found.end())
        except (ValueError, RecursionError):
            first = None
        if _is_row(first) or re.match(r"\]\s*\}\s*$", head[found.end() :]):
            key = found[1]
    if key is not None:
        what = f'the rows lie inside an object, under "{key}"; the file must be an array of rows or one row a line'
        raise refuse(file, what, f"jq -c '.[\"{key}\"][]' {file.path} > rows.jsonl")


def _is_row(value: object) -> bool:
    return isinstance(value, dict) and not PART_OF_A_ROW & value.keys()
