"""Where the ranks stand: each writes its Python stacks when it is told to (`sft.training.rank`)."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any

from sft.launch.extensions import unheld_locks
from sft.launch.said import RankState, read_from
from sft.launch.watch import Hang
from sft.rundir import RunDirectory

STACKS_SIGNAL = signal.SIGUSR2
# A rank that can answer does so at once, in C.
ANSWER_SECONDS = 2.0
# What faulthandler writes of each thread, the innermost call first.
THREAD = re.compile(r"^(Current thread|Thread) [^\n]*\n((?:  [^\n]*\n)*)", re.MULTILINE)
FRAME = re.compile(r'  File "([^"]+)", line (\d+) in (\S+)')
# How torch waits for another process to build an extension.
WAITS_FOR_BUILD = "file_baton.py"
# More than these would push the line off the screen.
FRAMES_SHOWN = 8


def ask_for_stacks(
    hang: Hang,
    run: RunDirectory,
    states: Mapping[int, RankState],
    processes: Iterable[Any],
    environment: Mapping[str, str],
) -> Hang:
    """Have the ranks write their stacks, and say what came of it; at most about two seconds.

    Args:
        processes: everything below the supervisor, as psutil.Process: a rank's pid may be another host's.
        environment: that of the ranks, which names their extensions cache.
    """
    by_pid = {process.pid: process for process in processes}
    asked = {
        rank: by_pid[state.pid]
        for rank, state in states.items()
        if rank in hang.places and state.pid in by_pid
    }
    begins = {rank: _begin(run, rank, hang) for rank in asked}
    for process in asked.values():
        _send(process)
    written = _answers(run, begins)
    silent = {
        rank: _condition(process) for rank, process in asked.items() if not THREAD.search(written[rank])
    }
    locks = unheld_locks(environment) if any(WAITS_FOR_BUILD in text for text in written.values()) else []
    frames = {rank: frame for rank, text in written.items() if (frame := _innermost(text)) is not None}
    shown = dict(sorted(frames.items())[:FRAMES_SHOWN])
    return dataclasses.replace(hang, silent=silent, frames=shown, locks=[str(path) for path in locks])


def _begin(run: RunDirectory, rank: int, hang: Hang) -> int:
    """Write the head of a dump, and return where the rank's own words begin."""
    path = run.rank_stacks(rank)
    # Without room for it, the run is to be ended all the same.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} rank {rank} {hang.places[rank]}\n")
            file.write(f"--- {hang.line}\n")
    return path.stat().st_size if path.exists() else 0


def _send(process: Any) -> None:
    import psutil  # type: ignore[import-untyped]

    try:
        process.send_signal(STACKS_SIGNAL)
    except psutil.Error:
        # It has ended since; that it wrote nothing is told.
        return


def _answers(run: RunDirectory, begins: Mapping[int, int]) -> dict[int, str]:
    """Return what each rank wrote, once all have and none writes on, or the time is over."""
    deadline = time.monotonic() + ANSWER_SECONDS
    before: dict[int, str] = {}
    while True:
        now = {rank: read_from(run.rank_stacks(rank), begin) for rank, begin in begins.items()}
        if (now == before and all(now.values())) or time.monotonic() > deadline:
            return now
        before = now
        time.sleep(0.1)


def _condition(process: Any) -> str:
    """Say why a process could not answer."""
    import psutil

    try:
        status = process.status()
    except psutil.Error:
        return "its process is gone"
    told = {
        psutil.STATUS_STOPPED: "stopped by a signal",
        psutil.STATUS_TRACING_STOP: "stopped by a debugger",
        psutil.STATUS_DISK_SLEEP: "stuck in the kernel, on a disk or a driver",
        psutil.STATUS_ZOMBIE: "its process is gone",
    }
    return told.get(status, "it does not answer") + f", pid {process.pid}"


def _innermost(text: str) -> str | None:
    """Return where the thread that took the signal stands, which is the main one."""
    threads = THREAD.findall(text)
    current = [frames for kind, frames in threads if kind == "Current thread"] or [
        frames for _, frames in threads[-1:]
    ]
    found = FRAME.search(current[0]) if current else None
    return f"{found[1]}:{found[2]} in {found[3]}" if found else None
