"""Tie processes together, so that none outlives the run it belongs to.

Three ties, all of Linux; elsewhere each does nothing:
- a child dies with the process that started it (`start_bound`, and `sft.parent.die_with_parent` in each rank);
- the supervisor adopts the orphans among its descendants (`adopt_orphans`), so that it still finds them;
- what is left of them is ended, politely first (`end_processes`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sft.parent import GET_CHILD_SUBREAPER, LINUX, SET_CHILD_SUBREAPER, bind_to, prctl, prctl_get


def start_bound(
    command: Sequence[str],
    environment: dict[str, str],
    log: IO[bytes],
    *,
    held: Sequence[signal.Signals] = (),
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, which dies when this process does.

    Call it from the main thread: the kernel sends the signal when the thread that forked ends. A session of
    its own keeps the terminal's Ctrl-C from it, which is the supervisor's to handle. There is no stdin: a
    question that nobody can see must fail instead of waiting.

    Args:
        held: signals that are held back from the command and all that it starts, until one of them wants to hear
            them. A rank does once it is ready to; torchrun never does, which would leave its ranks in the middle of
            a save at the second. What is held back can be seen (`held_back`).

    Raises:
        OSError: the command cannot be started.
    """
    parent = os.getpid()

    def begin() -> None:
        if LINUX:
            signal.pthread_sigmask(signal.SIG_BLOCK, held)
            bind_to(parent)

    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=begin,
    )


def held_back(pid: int, held: Sequence[signal.Signals]) -> signal.Signals | None:
    """Return the first of these signals that was sent to a process which holds them back."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    pending = int(status.partition("ShdPnd:")[2].split()[0], 16)
    return next((number for number in held if pending >> (number - 1) & 1), None)


@contextmanager
def adopt_orphans() -> Iterator[None]:
    """Become the parent of every descendant whose own parent dies, for as long as the block runs."""
    if not LINUX:
        yield
        return
    before = prctl_get(GET_CHILD_SUBREAPER)
    prctl(SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(SET_CHILD_SUBREAPER, before)


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
