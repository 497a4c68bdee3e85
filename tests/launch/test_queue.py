"""What becomes of a batch job whose start has ended, and the port that its nodes meet at."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from sft.launch.queue import JobBook, Start, decide, free_port, note, outcome_of, read_book
from sft.rundir import RunDirectory

STOPPED = {"status": "stopped", "exit_code": 75, "step": 20, "reason": "the end of Slurm job 7"}


def book(*steps: tuple[int, int | None, int | None]) -> JobBook:
    return JobBook(["7"], [Start("7", begun, 0.0, ended, code) for begun, ended, code in steps], ["7"])


def decided(
    outcome: dict[str, Any] | None, status: int, starts: JobBook, **how: bool
) -> tuple[int, bool, str]:
    settled = {"can_requeue": True, "is_cancelled": False, **how}
    decision = decide(outcome, status, starts, **settled)
    return decision.code, decision.requeue, decision.why


@pytest.mark.parametrize(
    ("outcome", "status", "starts", "expected"),
    [
        ({"exit_code": 0}, 0, book((0, 30, 0)), (0, False, "the run is done")),
        (
            STOPPED,
            75,
            book((0, 20, 75)),
            (75, True, "stopped before it was done; it goes back into the queue"),
        ),
        # One start without progress may be bad luck, two in a row are the end.
        (
            STOPPED,
            75,
            book((0, 0, 75)),
            (75, True, "stopped before it was done; it goes back into the queue"),
        ),
        (
            STOPPED,
            75,
            book((20, 20, 75), (20, 20, 75)),
            (75, False, "stopped before it was done, but 2 starts in a row came no further than step 20"),
        ),
        (
            STOPPED,
            75,
            book((20, 20, 75), (20, 40, 75), (40, 40, 75)),
            (75, True, "stopped before it was done; it goes back into the queue"),
        ),
        ({"exit_code": 2}, 2, book((0, 0, 2)), (2, False, "it would fail again")),
        ({"exit_code": 5, "step": 9}, 5, book((0, 0, 5)), (5, False, "it would fail again")),
        # Gone without a word before the first step: the node's fault, once.
        (
            None,
            137,
            book((0, 0, 137)),
            (6, True, "a node or worker was lost before the first step; it goes back into the queue"),
        ),
        (
            {"exit_code": 6},
            6,
            book((0, 0, 6), (0, 0, 6)),
            (6, False, "a node or worker was lost before the first step, twice in a row"),
        ),
        (
            {"exit_code": 6, "step": 12},
            6,
            book((0, 10, 6)),
            (6, False, "a worker was lost; `--max-restarts N` starts again inside the job"),
        ),
        (None, 1, book((0, 0, 1)), (1, False, "it would fail again")),
    ],
)
def test_what_follows(
    outcome: dict[str, Any] | None, status: int, starts: JobBook, expected: tuple[int, bool, str]
) -> None:
    assert decided(outcome, status, starts) == expected


def test_a_job_that_was_cancelled_or_may_not_be_requeued_stays_out() -> None:
    again = "the run continues when it is submitted again"
    starts = book((0, 20, 75))
    assert decided(STOPPED, 75, starts, can_requeue=False) == (
        75,
        False,
        f"stopped before it was done; {again}",
    )
    assert decided(STOPPED, 75, starts, is_cancelled=True) == (75, False, f"the job was cancelled; {again}")


def test_the_book_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert read_book(run) == JobBook()
    note(run, "submitted", jobs=["7", "8"])
    note(run, "begun", job="7", step=0)
    note(run, "ended", job="7", step=10, code=75)
    note(run, "begun", job="7", step=10)
    with run.jobs_jsonl.open("a") as file:
        file.write('{"time": 3, "sai')  # torn by a kill
    found = read_book(run)
    assert (found.jobs, found.chain) == (["7", "8"], ["7", "8"])
    assert [(start.begun, start.ended, start.code) for start in found.starts] == [
        (0, 10, 75),
        (10, None, None),
    ]
    note(run, "cancelled", job="8")
    assert "8" in read_book(run).cancelled


def test_the_outcome_of_an_earlier_start_is_not_this_ones(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.kit.mkdir()
    run.outcome_json.write_text('{"exit_code": 75}')
    written = run.outcome_json.stat().st_mtime
    assert outcome_of(run, Start("7", 0, written + 1)) is None
    assert outcome_of(run, Start("7", 0, written - 1)) == {"exit_code": 75}


def test_two_jobs_meet_at_two_ports_and_one_that_is_taken_is_passed_over() -> None:
    first = free_port("412")
    assert free_port("413") != first
    with socket.create_server(("", first)):
        assert free_port("412") != first
