"""One launch at a time in a run directory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from sft.errors import UserError
from sft.rundir import RunDirectory

# What a file system without flock answers (Lustre mounted without it, some network mounts).
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """Hold a run directory for the length of a `with` block, or until this process dies.

    The file stays, empty: removing it would let two processes lock two files of one name.

    Raises:
        UserError: another process holds it.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.path = run.lock
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in UNSUPPORTED:
                    self._refuse_by_content()
                elif isinstance(error, BlockingIOError):
                    raise self._held() from None
                else:
                    raise
            holder = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def _refuse_by_content(self) -> None:
        """Judge by what the file says, where the file system has no locks: a live holder empties it at its end."""
        holder = _read(self.path)
        if not holder:
            return
        if holder.get("host") == socket.gethostname() and not _is_alive(holder.get("pid")):
            return
        raise self._held(f"; if that process is gone, remove {self.path}")

    def _held(self, more: str = "") -> UserError:
        holder = _read(self.path)
        if not holder:
            who, stop = "another process", "stop it"
        else:
            pid, host = holder.get("pid"), holder.get("host")
            who = f"process {pid} on {host} (since {holder.get('started')})"
            stop = f"stop it in order with `kill {pid}` on {host}"
        return UserError(
            f"the run directory is in use by {who}",
            str(self.path),
            f"wait for it to end, {stop}, or choose another output_dir{more}",
        )


def holder_of(run: RunDirectory) -> dict[str, Any] | None:
    """Return the host and pid of the launch that holds a run directory; None where none does."""
    holder = _read(run.lock)
    if not holder or (holder.get("host") == socket.gethostname() and not _is_alive(holder.get("pid"))):
        return None
    return holder


def _read(path: Path) -> dict[str, Any]:
    """Read who holds the lock; empty while the holder is writing it."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_alive(pid: Any) -> bool:
    """Say whether a process runs; one that has ended and that nobody has asked about (a zombie) does not."""
    try:
        os.kill(int(pid), 0)
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
    except (OSError, TypeError, ValueError):
        return True
