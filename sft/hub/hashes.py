"""Whether a file is what the Hub says that it has: size, sha256 of large files, git's hash of small ones.

huggingface_hub compares sizes alone. What was found right is remembered by the file's size, time and inode, so that
a terabyte is not read at every start.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from huggingface_hub import RepoFile

from sft.files import write_whole


def etag_of(file: RepoFile) -> str:
    """Return the hash that names a file's bytes, in the cache as on the Hub."""
    return file.lfs.sha256 if file.lfs is not None else file.blob_id


class Checked:
    """Remembers in a directory which files were found right."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def has(self, path: Path, etag: str) -> bool:
        """Whether these very bytes were hashed before."""
        try:
            return bool(json.loads(self._note(etag).read_text(encoding="utf-8")) == _state(path))
        except (OSError, ValueError):
            return False

    def add(self, path: Path, etag: str) -> None:
        """Remember a file; where the note cannot be written it is hashed again."""
        with suppress(OSError):
            write_whole(self._note(etag), json.dumps(_state(path)))

    def _note(self, etag: str) -> Path:
        return self.directory / etag


def is_right(path: Path, file: RepoFile, checked: Checked) -> bool:
    """Compare a file with what the Hub lists."""
    etag = etag_of(file)
    try:
        if path.stat().st_size != file.size:
            return False
        if not checked.has(path, etag):
            if hash_of(path, file) != etag:
                return False
            checked.add(path, etag)
    except FileNotFoundError:
        return False
    return True


def hash_of(path: Path, file: RepoFile) -> str:
    """Hash a file as the Hub has hashed it.

    Source:
        git's blob: sha1 of `blob SIZE`, a zero byte and the content.
    """
    with path.open("rb") as stream:
        if file.lfs is not None:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        found = hashlib.sha1(b"blob %d\0" % file.size)
        while chunk := stream.read(1 << 22):
            found.update(chunk)
        return found.hexdigest()


def _state(path: Path) -> list[object]:
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ino]
