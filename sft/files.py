"""Write files so that a reader, or a kill, finds all of one or none."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
"""What a file system answers that cannot flush a directory."""
DELETED_SECONDS = (0.05, 0.2, 1.0)
"""How long to wait before a file is written again whose directory was deleted while it was written."""


def write_whole(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file aside and rename it into its place; its directory is made where it is missing, and again where
    somebody deletes it just then.

    Args:
        durable: flush it to the disk first, so that it survives a power cut.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    for wait_seconds in DELETED_SECONDS:
        try:
            _write_whole(path, text, durable)
        except FileNotFoundError:
            time.sleep(wait_seconds)
        else:
            return
    _write_whole(path, text, durable)


def _write_whole(path: Path, text: str, durable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def fsync_directory(path: Path) -> None:
    """Flush the names in a directory; a file system that knows no such thing is left alone."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
