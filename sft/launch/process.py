"""Tie processes together, so that none outlives the run it belongs to.

Three ties, all of Linux; elsewhere each does nothing:
- a child dies with the process that started it (`start_bound`, and `die_with_parent` in each rank);
- the supervisor adopts the orphans among its descendants (`adopt_orphans`), so that it still finds them;
- what is left of them is ended, politely first (`end_processes`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# prctl's numbers, from linux/prctl.h.
SET_DEATH_SIGNAL = 1
GET_DEATH_SIGNAL = 2
SET_CHILD_SUBREAPER = 36
GET_CHILD_SUBREAPER = 37

# Says which process supervises a run: "pid boot-id pid-namespace".
SUPERVISOR_VARIABLE = "SFT_SUPERVISOR"
# One of these is set in every process that a launcher started. A rank started from a shell has none, and is
# left alone: it must not die when `nohup` was meant to keep it after the shell is gone.
LAUNCHER_VARIABLES = ("SFT_SUPERVISED", "TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")

LINUX = sys.platform == "linux"
# Loaded here, because loading a library between fork and exec is not safe.
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
if _libc is not None:
    _libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_forking = threading.local()
_children_are_bound = False


def _prctl(option: int, value: int) -> None:
    """Call prctl(2); it fails only on kernels older than Python 3.11 runs on."""
    if _libc is not None and _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def _prctl_get(option: int) -> int:
    value = ctypes.c_int(0)
    _prctl(option, ctypes.addressof(value))
    return value.value


def _namespace() -> str:
    """Name the process-id space of this process, so that a pid of another host is not looked up here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def supervisor_tag() -> str:
    """Name this process for `SUPERVISOR_VARIABLE`."""
    return f"{os.getpid()} {_namespace()}" if LINUX else str(os.getpid())


def _is_dead(tag: str) -> bool:
    """Say whether the process of a tag has ended; False where it lived in another pid space."""
    pid, _, namespace = tag.partition(" ")
    if namespace != _namespace():
        return False
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


def die_with_parent() -> None:
    """Let the kernel kill this process when the process that started it dies. Call it first in every rank.

    Children that this process then forks from its main thread (DataLoader workers) are bound to it likewise.
    Nothing is done in a rank that was started from a shell, without a launcher.
    """
    if not LINUX or not any(name in os.environ for name in LAUNCHER_VARIABLES):
        return
    parent = os.getppid()
    _prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    # The parent may have died before the call above, and then nothing would ever come. That it is 1 says
    # nothing: in a container 1 may be the launcher.
    tag = os.environ.get(SUPERVISOR_VARIABLE)
    if os.getppid() != parent or (tag is not None and _is_dead(tag)):
        os.kill(os.getpid(), signal.SIGKILL)
    _bind_forked_children()


def _bind_forked_children() -> None:
    global _children_are_bound
    if _children_are_bound:
        return
    _children_are_bound = True

    # The kernel sends the signal when the *thread* that forked ends, so a child of a passing thread is not bound.
    def before() -> None:
        _forking.parent = os.getpid() if threading.get_native_id() == os.getpid() else None

    def after_in_child() -> None:
        if _forking.parent is not None:
            _bind_to(_forking.parent)

    os.register_at_fork(before=before, after_in_child=after_in_child)


def _bind_to(parent: int) -> None:
    """Die with `parent`, which forked this process; called right after the fork."""
    _prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def start_bound(
    command: Sequence[str], environment: dict[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, which dies when this process does.

    Call it from the main thread: the kernel sends the signal when the thread that forked ends. A session of
    its own keeps the terminal's Ctrl-C from it, which is the supervisor's to handle. There is no stdin: a
    question that nobody can see must fail instead of waiting.

    Raises:
        OSError: the command cannot be started.
    """
    parent = os.getpid()
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=(lambda: _bind_to(parent)) if LINUX else None,
    )


@contextmanager
def adopt_orphans() -> Iterator[None]:
    """Become the parent of every descendant whose own parent dies, for as long as the block runs."""
    if not LINUX:
        yield
        return
    before = _prctl_get(GET_CHILD_SUBREAPER)
    _prctl(SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        _prctl(SET_CHILD_SUBREAPER, before)


def descendants(besides: frozenset[int] = frozenset()) -> list[Any]:
    """List the live processes below this one as psutil.Process, without those of the pids in `besides`.

    Dead ones that wait for this process to take their status are taken on the way.
    """
    import psutil  # type: ignore[import-untyped]

    alive = []
    for process in psutil.Process().children(recursive=True):
        if process.pid in besides:
            continue
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
            elif process.ppid() == os.getpid():
                process.wait(timeout=0)
        except psutil.Error:
            # It ended between two looks, which is what is wanted.
            continue
    return alive


def end_processes(
    find: Callable[[], list[Any]], *, grace_seconds: float, hurry: Callable[[], bool] = lambda: False
) -> list[int]:
    """End every process that `find` lists: SIGTERM, then SIGKILL once the grace is over or `hurry` says so.

    Returns:
        The pids that are still there five seconds after SIGKILL: stuck in the kernel, in a driver or on a
        file system that does not answer.
    """
    import psutil

    def send(number: signal.Signals, processes: list[Any]) -> None:
        for process in processes:
            try:
                process.send_signal(number)
            except psutil.Error:
                # It ended by itself meanwhile.
                continue

    told: set[int] = set()
    deadline = time.monotonic() + grace_seconds
    while (left := find()) and time.monotonic() < deadline and not hurry():
        send(signal.SIGTERM, [process for process in left if process.pid not in told])
        told |= {process.pid for process in left}
        time.sleep(0.05)
    deadline = time.monotonic() + 5.0
    # Looked for again each time: a process may have forked while it was being killed.
    while (left := find()) and time.monotonic() < deadline:
        send(signal.SIGKILL, left)
        time.sleep(0.05)
    return [process.pid for process in left]
