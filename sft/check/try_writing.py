"""Whether something can be written where a path is or will be: tried, because root passes over permission bits."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

TRIED_BYTES = 4096
REASONS = {
    errno.EROFS: "it is mounted read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOSPC: "no room is left, or no inodes",
    errno.EDQUOT: "your quota on it is used up",
    errno.ENOTDIR: "a part of it is a file, and not a directory",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ESTALE: "its file server has lost it",
}


def above(path: Path) -> Path:
    """Return the nearest place above a path that is there, file or directory.

    Raises:
        OSError: not even that can be looked at.
    """
    path = path.expanduser().absolute()
    for place in (path, *path.parents):
        try:
            os.lstat(place)
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            continue
        return place
    return Path("/")


def refusal(path: Path) -> tuple[Path, str] | None:
    """Say where and why nothing can be written; None where it can. Leaves nothing behind."""
    try:
        place = above(path)
        if not place.is_dir():
            return (
                place,
                "it is a link to nothing" if place.is_symlink() else "it is a file, and not a directory",
            )
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"\0" * TRIED_BYTES)
            stream.flush()
    except OSError as error:
        return path, REASONS.get(error.errno or 0, error.strerror or type(error).__name__)
    return None


def inodes_left(path: Path) -> int | None:
    """Return how many more files a file system takes; None where it does not count them."""
    found = os.statvfs(above(path))
    return found.f_favail if found.f_files else None
