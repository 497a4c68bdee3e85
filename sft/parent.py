"""Tie a process to the one that started it, so that the kernel ends it when that one dies.

Linux only (prctl(2)); elsewhere nothing is tied.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""What schedulers and terminals send to every process of a run."""

LINUX = sys.platform == "linux"
# Loaded here, because loading a library between fork and exec is not safe.
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
if _libc is not None:
    _libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_forking = threading.local()
_children_are_bound = False


def prctl(option: int, value: int) -> None:
    """Call prctl(2); it fails only on kernels older than Python 3.11 runs on."""
    if _libc is not None and _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def prctl_get(option: int) -> int:
    value = ctypes.c_int(0)
    prctl(option, ctypes.addressof(value))
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
    prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
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
            bind_to(_forking.parent)

    os.register_at_fork(before=before, after_in_child=after_in_child)


def bind_to(parent: int) -> None:
    """Die with `parent`, which forked this process; called right after the fork."""
    prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Hold back the signals that ask for a stop; what is forked in the block begins with them held back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_only_parent(parent: int) -> None:
    """Ignore the signals that ask for a stop, but for SIGTERM from the process `parent`.

    For a worker whose parent ends it, by SIGTERM or by its own death, when it has no more work for it. Call it in
    the main thread of the worker, before it starts any other.
    """
    if not LINUX:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    # A handler is not told the sender. Threads inherit the mask, so that this is the only one that takes a signal.
    threading.Thread(target=_wait_for_parent, args=(parent,), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while True:
        told = signal.sigwaitinfo(STOPPING)
        if told.si_signo == signal.SIGTERM and told.si_pid == parent:
            os._exit(0)
