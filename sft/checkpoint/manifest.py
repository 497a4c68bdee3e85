"""`manifest.json`, the last file of a checkpoint: without it there is no checkpoint.

It says what the checkpoint holds (every file with its size and hash) and what it was made with, so that a resume
can be held to it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "manifest.json"
FORMAT = 1
CHUNK = 1 << 22
HASHING_THREADS = 4


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint is.

    Attributes:
        run_id: of the run that wrote it; a run that continues it elsewhere keeps the id.
        strategy: how the optimizer is laid over the ranks (`sft.config.kit.Strategy`).
        rows_per_step: the global batch.
        settings: the resolved run file, without secrets.
        data: the fingerprint of the prepared data; None where there was none.
        trained_tokens: tokens that carried loss so far, over all ranks.
        seen_tokens: tokens that were no padding, which TRL logs as `num_tokens`.
        files: by path inside the checkpoint, with `/`.
    """

    step: int
    epoch: float
    created: float
    run_id: str
    world_size: int
    strategy: str
    rows_per_step: int
    settings: Mapping[str, Any]
    data: str | None
    versions: Mapping[str, str]
    trained_tokens: int
    best_step: int | None
    files: Mapping[str, FileRecord]
    seen_tokens: int = 0

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(record.bytes for record in self.files.values())

    def to_json(self) -> str:
        """Write it with a digest of itself, by which a later change shows."""
        fields = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps({**fields, "digest": _digest(fields)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is torn, was altered, or is of another format; the message says which.
        """
        try:
            fields = json.loads(text)
            digest = fields.pop("digest")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{NAME} is torn") from None
        if digest != _digest(fields):
            raise ValueError(f"{NAME} was altered")
        if fields.pop("format") != FORMAT:
            raise ValueError(f"{NAME} is of another version of the kit")
        files = {name: FileRecord(**record) for name, record in fields.pop("files").items()}
        return cls(**fields, files=files)


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def hash_file(path: Path) -> FileRecord:
    """Read a file's size and SHA-256."""
    found, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
            size += len(chunk)
    return FileRecord(size, found.hexdigest())


def read_manifest(checkpoint: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        ValueError: there is none, or it cannot be trusted; the message says why.
        OSError: it cannot be read.
    """
    try:
        text = (checkpoint / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"it has no {NAME}, so its save did not come to an end") from None
    except UnicodeDecodeError:
        raise ValueError(f"{NAME} is torn") from None
    return Manifest.from_json(text)


def verify(checkpoint: Path, manifest: Manifest, *, hashes: bool = True) -> None:
    """Hold the files of a checkpoint to its manifest.

    Args:
        hashes: read every file; else compare sizes alone.

    Raises:
        ValueError: a file is missing or not what was written; the message names it.
        OSError: a file cannot be read.
    """
    for name, record in manifest.files.items():
        try:
            size = os.stat(checkpoint / name).st_size
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{name} is missing") from None
        if size != record.bytes:
            raise ValueError(f"{name} has {size:,} bytes instead of {record.bytes:,}")
    if hashes:
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            found = pool.map(lambda name: hash_file(checkpoint / name), manifest.files)
            for (name, record), now in zip(manifest.files.items(), found, strict=True):
                if now != record:
                    raise ValueError(f"{name} is not what was written (its SHA-256 differs)")
