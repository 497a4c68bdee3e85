"""Start a run again inside its allocation, where a worker was lost and the next start may fare better."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

from sft.deadline import Deadline
from sft.errors import ExitCode
from sft.events import EventFollower
from sft.launch.said import read_states
from sft.launch.stages import stopped
from sft.launch.stop import StopNow, StopRequests
from sft.launch.supervise import ENDING_SECONDS
from sft.rundir import RunDirectory

FIRST_WAIT_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 300.0
# So many starts in a row that came no further than those before them are a crash loop.
STARTS_IN_VAIN = 2
POLL_SECONDS = 0.2
STOPPED = "stopped before the restart: the run continues from its last checkpoint"

WHY_NOT: dict[int, str] = {
    ExitCode.BUG: "the same error would come again",
    ExitCode.USAGE: "it would be refused again",
    ExitCode.DOES_NOT_FIT: "it would not fit again",
    ExitCode.ENVIRONMENT: "what is wrong with the environment has to be mended first",
    ExitCode.TRAINING_FAILED: "the same numbers would come again",
}


class Progress:
    """The furthest step that a run has come to since this was made; a step that is done again is no progress."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        path = run.events_jsonl
        self._events = EventFollower(path, path.stat().st_size if path.exists() else 0)
        self._step = -1

    def __call__(self) -> int:
        """Return that step, after a start; -1 before the first word of any rank."""
        steps = [event.get("step") for event in self._events.poll()]
        steps += [state.step for state in read_states(self._run).values()]
        self._step = max([self._step, *(step for step in steps if isinstance(step, int))])
        return self._step


def run_with_restarts(
    start: Callable[[int], int],
    run: RunDirectory,
    stop: StopRequests,
    *,
    max_restarts: int,
    progress: Callable[[], int],
    say: Callable[[str], None],
    deadline: Deadline | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Start a run until it has ended otherwise than by a lost worker, and return its exit code.

    Args:
        start: does the start of this number, from the newest checkpoint, and returns its exit code; raises StopNow
            where it was stopped before there was anything to stop in order.
        max_restarts: how many starts may follow the first.
        progress: how far the run has come.
        deadline: is not slept over: the start that follows it ends as any run does whose time is over.
    """
    reached, in_vain = -1, 0
    for number in count():
        try:
            code = start(number)
        except StopNow:
            return stopped(run, stop, STOPPED, [])
        if code in (ExitCode.DONE, ExitCode.STOPPED) or max_restarts == 0:
            return code
        furthest = progress()
        in_vain = 0 if furthest > reached else in_vain + 1
        reached = furthest
        if code != ExitCode.WORKER_LOST:
            why_not = WHY_NOT.get(code, f"exit code {code} is no lost worker")
        elif in_vain >= STARTS_IN_VAIN:
            why_not = f"{in_vain} starts in a row came no further than {_step(reached)}"
        elif number == max_restarts:
            why_not = f"--max-restarts {max_restarts} is used up"
        else:
            seconds = min(FIRST_WAIT_SECONDS * 2**number, LONGEST_WAIT_SECONDS)
            say(
                f"a worker was lost at {_step(reached)}: restart {number + 1} of {max_restarts} in {seconds:g} s"
            )
            _wait(seconds, stop, deadline, sleep)
            if stop.first is not None:
                return stopped(run, stop, STOPPED, [])
            continue
        say(f"not restarted: {why_not}")
        return code
    raise AssertionError("count() has no end")


def _wait(
    seconds: float, stop: StopRequests, deadline: Deadline | None, sleep: Callable[[float], None]
) -> None:
    """Wait, unless a stop was asked for before or is meanwhile."""
    while seconds > 0 and stop.first is None and (deadline is None or deadline.seconds_left > ENDING_SECONDS):
        sleep(min(seconds, POLL_SECONDS))
        seconds -= POLL_SECONDS


def _step(step: int) -> str:
    return f"step {step}" if step >= 0 else "the start"
