"""The files of a push, held as they were when it was asked for: `_sft/outbox/<push>/files/`, laid out as on the Hub.

Large files are hard links, which cost nothing and which rotation and a re-save (a rename) do not touch; small ones
are copies. A program that writes into a large file in place changes the link too: `altered` finds that out.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sft.hub.journal import PushRequest, write_whole
from sft.hub.select import Upload
from sft.rundir import RunDirectory

LINKED_FROM_BYTES = 1 << 20
# What file systems answer that have no hard links, or none for this file.
_NO_LINK = (
    errno.EPERM,
    errno.EXDEV,
    errno.EMLINK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EACCES,
    errno.EINVAL,
)


class SnapshotGoneError(Exception):
    """The files of a push are not there any more."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A file as it was when it was taken hold of."""

    bytes: int
    inode: int
    mtime_ns: int
    sha256: str | None


def take(run: RunDirectory, request: PushRequest, uploads: Sequence[Upload]) -> None:
    """Hold the files of a push: all of them are there once the directory has its name.

    Raises:
        OSError: the disk is full, or fails; nothing is left then.
    """
    place = run.outbox / request.key
    aside = run.outbox / f".{request.key}"
    held = {}
    try:
        for upload in uploads:
            target = aside / "files" / upload.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            _hold(upload.path.resolve(), target)
            stat = target.stat()
            held[upload.path_in_repo] = asdict(
                _Held(stat.st_size, stat.st_ino, stat.st_mtime_ns, upload.sha256)
            )
        write_whole(aside / "held.json", json.dumps(held, indent=1))
        aside.rename(place)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def held_files(run: RunDirectory, request: PushRequest) -> list[Upload]:
    """List the files of a push.

    Raises:
        SnapshotGoneError: they are not there.
    """
    place = run.outbox / request.key
    found = [Upload(place / "files" / name, name, held.sha256) for name, held in _held(place).items()]
    if not all(upload.path.is_file() for upload in found):
        raise SnapshotGoneError
    return found


def altered(run: RunDirectory, request: PushRequest, sha256: Callable[[Path], str]) -> str | None:
    """Name a file that is not what it was when the push was asked for.

    With a known hash that decides. Else a file that still is the same inode must have its old time; in a run
    directory that was copied elsewhere inodes are new, and nothing writes to its copies.
    """
    place = run.outbox / request.key
    for name, held in _held(place).items():
        path = place / "files" / name
        stat = path.stat()
        if stat.st_size != held.bytes:
            return name
        if held.sha256 is not None:
            if sha256(path) != held.sha256:
                return name
        elif stat.st_ino == held.inode and stat.st_mtime_ns != held.mtime_ns:
            return name
    return None


def sent_marker(run: RunDirectory, request: PushRequest) -> Path:
    """Where a delivery notes that it is about to make the commit, so that the next one looks for it."""
    return run.outbox / request.key / "sent"


def _held(place: Path) -> dict[str, _Held]:
    try:
        text = (place / "held.json").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SnapshotGoneError from error
    return {name: _Held(**record) for name, record in json.loads(text).items()}


def _hold(source: Path, target: Path) -> None:
    if source.stat().st_size >= LINKED_FROM_BYTES:
        try:
            os.link(source, target)
            return
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
