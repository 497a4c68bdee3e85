"""Name prepared data by what it was made of: the bytes of the files and every setting that decides a token."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sft import __version__
from sft.data.block import Part, Split

FORMAT = 1
"""Raised when the same settings would give other bytes."""
CHUNK = 1 << 22


def digest_of(settings: Mapping[str, Any], splits: tuple[Split | None, ...], memory: Path) -> str:
    """Return the name of what these settings make of these splits.

    Args:
        memory: a directory that remembers the hashes of files whose size and times have not changed.
    """
    whole = {
        "format": FORMAT,
        "kit": __version__,
        "settings": settings,
        "splits": [None if split is None else _split(split, memory) for split in splits],
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _split(split: Split, memory: Path) -> dict[str, Any]:
    return {
        "name": split.name,
        "order_seed": split.order_seed,
        "parts": [_part(part, memory) for part in split.parts],
    }


def _part(part: Part, memory: Path) -> dict[str, Any]:
    keep = None if part.keep is None else hashlib.sha256(part.keep.tobytes()).hexdigest()
    files = [
        {"kind": file.kind, "compression": file.compression, "bytes": file_digest(Path(file.path), memory)}
        for file in part.files
    ]
    return {"columns": part.columns, "keep": keep, "files": files}


def file_digest(path: Path, memory: Path) -> str:
    """Return the hash of a file's bytes, from memory where size, inode and times say that they are the same.

    The time of the last change of status cannot be set back by a program, so no rewriting goes unseen.
    """
    state = path.stat()
    seen = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]
    note = memory / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError):
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept["seen"] == seen:
            return str(kept["digest"])
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    with suppress(OSError):  # a cache that cannot be written is slower, not wrong
        note.parent.mkdir(parents=True, exist_ok=True)
        aside = note.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps({"path": str(path), "seen": seen, "digest": found.hexdigest()}))
        aside.replace(note)
    return found.hexdigest()
