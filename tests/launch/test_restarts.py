"""Restarts inside the allocation: what deserves one, how long it waits, and when it gives up."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sft.deadline import Deadline
from sft.events import EventLog, read_events
from sft.launch.restart import Progress, run_with_restarts
from sft.launch.stop import StopRequests
from sft.rundir import RunDirectory


class Starts:
    """Starts that each come to a step and end with a code, on a clock that only the waiting moves."""

    def __init__(self, directory: Path, *ends: tuple[int, int]) -> None:
        self.run = RunDirectory(directory)
        self.run.ranks.mkdir(parents=True)
        self.ends = ends
        self.numbers: list[int] = []
        self.slept = [0.0]
        self.said: list[str] = []
        self.stop = StopRequests()
        self.on_sleep: Callable[[], None] = lambda: None

    def start(self, number: int) -> int:
        self.numbers.append(number)
        self.slept.append(0.0)
        step, code = self.ends[number]
        if step >= 0:
            EventLog(self.run.events_jsonl).write("log", step=step, loss=1.0)
            (self.run.outcome_json).write_text(
                json.dumps({"status": "failed", "exit_code": code, "step": step})
            )
        return code

    def sleep(self, seconds: float) -> None:
        self.slept[-1] += seconds
        self.on_sleep()

    def go(self, max_restarts: int) -> int:
        return run_with_restarts(
            self.start,
            self.run,
            self.stop,
            max_restarts=max_restarts,
            progress=Progress(self.run),
            say=self.said.append,
            sleep=self.sleep,
        )


def test_a_lost_worker_is_restarted_after_waits_that_double_up_to_five_minutes(tmp_path: Path) -> None:
    starts = Starts(tmp_path, *((step, 6) for step in range(8)), (20, 0))
    assert starts.go(9) == 0
    assert starts.numbers == list(range(9))
    assert [round(seconds, 6) for seconds in starts.slept[1:]] == [5, 10, 20, 40, 80, 160, 300, 300, 0]
    assert starts.said[0] == "a worker was lost at step 0: restart 1 of 9 in 5 s"
    assert starts.said[7] == "a worker was lost at step 7: restart 8 of 9 in 300 s"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (1, "the same error would come again"),
        (2, "it would be refused again"),
        (3, "it would not fit again"),
        (4, "what is wrong with the environment has to be mended first"),
        (5, "the same numbers would come again"),
    ],
)
def test_what_would_fail_again_is_not_restarted_and_says_why(tmp_path: Path, code: int, why: str) -> None:
    starts = Starts(tmp_path, (5, code))
    assert (starts.go(3), starts.numbers, starts.said) == (code, [0], [f"not restarted: {why}"])


@pytest.mark.parametrize("code", [0, 75])
def test_a_run_that_ended_as_it_should_is_left_alone(tmp_path: Path, code: int) -> None:
    starts = Starts(tmp_path, (5, code))
    assert (starts.go(3), starts.numbers, starts.said) == (code, [0], [])


def test_without_max_restarts_nothing_is_restarted_or_said(tmp_path: Path) -> None:
    starts = Starts(tmp_path, (5, 6))
    assert (starts.go(0), starts.numbers, starts.said) == (6, [0], [])


def test_restarts_are_used_up(tmp_path: Path) -> None:
    starts = Starts(tmp_path, (5, 6), (6, 6), (7, 6))
    assert (starts.go(2), starts.said[-1]) == (6, "not restarted: --max-restarts 2 is used up")


@pytest.mark.parametrize(("steps", "where"), [((5, 5, 4), "step 5"), ((-1, -1), "the start")])
def test_two_starts_in_a_row_that_come_no_further_end_it(
    tmp_path: Path, steps: tuple[int, ...], where: str
) -> None:
    starts = Starts(tmp_path, *((step, 6) for step in steps), (9, 0))
    assert starts.go(9) == 6
    assert starts.said[-1] == f"not restarted: 2 starts in a row came no further than {where}"


def test_a_start_that_comes_further_is_no_part_of_a_loop(tmp_path: Path) -> None:
    starts = Starts(tmp_path, (5, 6), (5, 6), (6, 6), (6, 6), (7, 0))
    assert starts.go(9) == 0


def test_a_stop_while_waiting_ends_with_75_at_once(tmp_path: Path) -> None:
    starts = Starts(tmp_path, (5, 6), (6, 0))
    with starts.stop:
        starts.on_sleep = lambda: signal.raise_signal(signal.SIGTERM)
        assert starts.go(3) == 75
    assert (starts.numbers, starts.slept[-1] < 1) == ([0], True)
    assert json.loads(starts.run.outcome_json.read_text()) == {
        "status": "stopped",
        "exit_code": 75,
        "step": 5,
        "reason": "SIGTERM",
        "what": "stopped before the restart: the run continues from its last checkpoint",
    }


def test_a_deadline_is_not_slept_over(tmp_path: Path) -> None:
    starts = Starts(tmp_path, (5, 6), (5, 75))
    due = Deadline(time.monotonic() + 3, "launch.time_limit 1")
    code = run_with_restarts(
        starts.start, starts.run, starts.stop, max_restarts=3, progress=Progress(starts.run), say=starts.said.append,
        sleep=starts.sleep, deadline=due,
    )  # fmt: skip
    assert (code, starts.numbers, starts.slept) == (75, [0, 1], [0, 0, 0])


def test_a_stop_while_the_checkpoint_is_looked_for_ends_with_75(tmp_path: Path) -> None:
    starts = Starts(tmp_path, (5, 6))

    def start(number: int) -> int:
        if number:
            with starts.stop.interrupting():
                signal.raise_signal(signal.SIGUSR1)
        return starts.start(number)

    with starts.stop:
        code = run_with_restarts(
            start, starts.run, starts.stop, max_restarts=3, progress=Progress(starts.run), say=starts.said.append,
            sleep=starts.sleep,
        )  # fmt: skip
    assert (code, starts.numbers) == (75, [0])
    assert json.loads(starts.run.outcome_json.read_text())["reason"] == "SIGUSR1"


def test_progress_counts_from_this_launch_on_and_takes_the_ranks_word_too(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.ranks.mkdir(parents=True)
    EventLog(run.events_jsonl).write("log", step=900)
    with run.events_jsonl.open("a") as file:
        file.write('{"event": "lo')
    progress = Progress(run)
    assert progress() == -1
    with run.events_jsonl.open("a") as file:
        file.write("\n")
    EventLog(run.events_jsonl).write("start", step=0)
    assert progress() == 0
    run.rank_state(1).write_text('{"rank": 1, "step": 12}')
    assert progress() == 12
    run.rank_state(1).unlink()
    EventLog(run.events_jsonl).write("log", step=3)
    assert progress() == 12
    assert [event["step"] for event in read_events(run.events_jsonl)] == [900, 0, 3]
