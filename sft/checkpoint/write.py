"""Write a checkpoint aside: each rank its files, rank 0 the manifest and the rename.

The ranks meet through files, not collectives, because they write in the background while the training's own
collectives go on: a rank's part is there when `.parts/rank-N.json` is.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sft.checkpoint.find import publish
from sft.checkpoint.manifest import NAME, FileRecord, Manifest, hash_file, verify
from sft.files import fsync_directory, write_whole
from sft.rundir import RunDirectory

PARTS = ".parts"
POLL_SECONDS = 0.05


class GivenUpError(Exception):
    """Another rank could not write its part."""


@dataclass(frozen=True, slots=True)
class Pending:
    """One file that is still to be written: `write` puts it at the path that it is given."""

    name: str
    bytes: int
    write: Callable[[Path], None]


def write_part(staging: Path, rank: int, files: Iterable[Pending], *, keep_going: Callable[[], bool]) -> None:
    """Write one rank's files, each flushed to the disk, and then the note that they are all there.

    Raises:
        OSError: the disk is full, or fails.
        GivenUpError: `keep_going` said no.
    """
    records: dict[str, FileRecord] = {}
    for file in files:
        if not keep_going():
            raise GivenUpError
        path = staging / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        file.write(path)
        records[file.name] = settled(path)
    note = staging / PARTS / f"rank-{rank}.json"
    write_whole(note, json.dumps({name: asdict(record) for name, record in records.items()}), durable=True)


def refuse_part(staging: Path, rank: int) -> None:
    """Leave a note that a rank's part will not come."""
    place = staging / PARTS
    place.mkdir(parents=True, exist_ok=True)
    (place / f"failed-{rank}").touch()


def settled(path: Path) -> FileRecord:
    """Flush a file to the disk and hash it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return hash_file(path)


def complete(
    run: RunDirectory, staging: Path, manifest: Manifest, *, ranks: int, keep_going: Callable[[], bool]
) -> Path:
    """Wait for every rank's part, write the manifest and give the checkpoint its name. Rank 0 does it.

    Raises:
        OSError: the disk is full, or fails.
        ValueError: a file is no longer what was written: somebody deletes in the run directory.
        GivenUpError: `keep_going` said no.
    """
    files: dict[str, FileRecord] = {}
    for rank in range(ranks):
        files |= _part(staging / PARTS / f"rank-{rank}.json", keep_going)
    shutil.rmtree(staging / PARTS)
    manifest = replace(manifest, files=dict(sorted(files.items())))
    write_whole(staging / NAME, manifest.to_json(), durable=True)
    for directory in {path.parent for path in staging.rglob("*")} | {staging.parent}:
        fsync_directory(directory)
    verify(staging, manifest, hashes=False)
    path = publish(run, staging)
    with suppress(
        OSError
    ):  # the checkpoint is whole and has its name; only a power cut could still take the name
        fsync_directory(path.parent)
    return path


def _part(note: Path, keep_going: Callable[[], bool]) -> Mapping[str, FileRecord]:
    while not note.exists():
        if not keep_going() or any(note.parent.glob("failed-*")):
            raise GivenUpError
        time.sleep(POLL_SECONDS)
    return {name: FileRecord(**record) for name, record in json.loads(note.read_text()).items()}
