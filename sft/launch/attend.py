"""Stay with a job until it is over: show what it prints, pass a wish to stop on, and end as the run does.

For platforms whose job belongs to the session that started it (`Platform.IS_ATTENDED`). The job is a process of its own:
should this one be killed, `sft status`, `logs` and `cancel` find the job as they find any other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from sft.errors import ExitCode
from sft.launch.platform import JobState, Platform
from sft.launch.queue import note
from sft.launch.stop import StopRequests
from sft.rundir import RunDirectory

POLL_SECONDS = 0.3


def attend(
    run: RunDirectory, asked: Platform, job: str, stream: TextIO, *, stop_signals: Sequence[str]
) -> int:
    """Wait for a job's end, and return the run's exit code.

    The first stop signal has the run save and end; Ctrl-C again ends it at once.

    Args:
        stream: where people read.
        stop_signals: what asks for a stop, besides a terminal that closes.
    """
    log, shown, told = asked.log(run, job), 0, 0
    with StopRequests(stop_signals) as stop:
        while True:
            state = asked.state(run, job)  # before its last words are read
            shown = _show(log, shown, stream, all=state.is_over)
            if state.is_over:
                break
            if (stop.first is not None and told == 0) or (stop.at_once and told == 1):
                told = 2 if stop.at_once else 1
                _stop(run, asked, state, stream, now=stop.at_once)
                continue
            time.sleep(POLL_SECONDS)
    code = int(ExitCode.WORKER_LOST) if state.exit_code is None else state.exit_code
    return int(ExitCode.STOPPED) if told == 2 and code == ExitCode.WORKER_LOST else code


def _stop(run: RunDirectory, asked: Platform, state: JobState, stream: TextIO, *, now: bool) -> None:
    note(run, "cancelled", job=state.job)
    again = "" if now else "; Ctrl-C again ends it at once"
    print(f"{asked.stop(run, state, now=now)}{again}", file=stream, flush=True)


def _show(log: Path, shown: int, stream: TextIO, *, all: bool) -> int:
    """Show the lines by which a log has grown, and return how far it has been shown.

    Args:
        all: show what may be the beginning of a line too.
    """
    if not log.exists():
        return shown
    with log.open("rb") as file:
        file.seek(shown)
        added = file.read()
    if not all:
        added = added[: added.rfind(b"\n") + 1]
    stream.write(added.decode("utf-8", errors="replace"))
    stream.flush()
    return shown + len(added)
