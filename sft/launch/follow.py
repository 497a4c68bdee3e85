"""Follow a run from outside, by what it writes and by what its platform says of its job."""

from __future__ import annotations

import time
from typing import TextIO

from sft.errors import ExitCode
from sft.events import EventFollower
from sft.launch.screen import Screen
from sft.launch.status import RunStatus, status_of
from sft.rundir import RunDirectory

EVENTS_SECONDS = 1.0
ASK_SECONDS = 10.0
"""Between two questions to the platform: Slurm's controller serves everyone."""


def follow(run: RunDirectory, stream: TextIO) -> int:
    """Show a run until it is over, and return its exit code."""
    status = status_of(run)
    for line in status.lines():
        print(line, file=stream)
    size = run.events_jsonl.stat().st_size if run.events_jsonl.exists() else 0
    events, screen, told = EventFollower(run.events_jsonl, size), Screen(stream), _queue(status)
    asked = time.monotonic()
    while not status.is_over:
        for event in events.poll():
            screen.show(event)
        screen.tick()
        time.sleep(EVENTS_SECONDS)
        if time.monotonic() - asked > ASK_SECONDS:
            status, asked = status_of(run), time.monotonic()
            if _queue(status) != told:
                told = _queue(status)
                screen.say(told)
    for event in events.poll():
        screen.show(event)
    screen.close()
    for line in status_of(run).lines()[1:]:
        print(line, file=stream)
    code = status.outcome.get("exit_code")
    return code if isinstance(code, int) else int(ExitCode.WORKER_LOST)


def _queue(status: RunStatus) -> str:
    """Say what has become of the job, without what changes all the time."""
    job = status.job
    if job is None:
        return status.problem or ""
    words = [f"job {job.job}", job.state.lower()]
    if job.nodes:
        words.append(f"on {job.nodes}")
    if job.restarts:
        words.append(f"(start {job.restarts + 1})")
    return " ".join(words)
