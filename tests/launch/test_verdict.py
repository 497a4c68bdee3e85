"""How a launch ended, from what it left: the code that says whether a restart may help."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from sft.errors import ExitCode
from sft.launch.said import RankState
from sft.launch.verdict import Ending, Verdict, judge
from sft.launch.watch import Hang
from sft.rundir import RunDirectory

LOST = {
    "status": "failed",
    "exit_code": 6,
    "time": 1.0,
    "what": "lost the connection to another rank: closed",
}


def judged(*states: RankState, said: str = "", **more: Any) -> Verdict:
    fields: dict[str, Any] = {
        "ranks": 2,
        "launcher_pid": 5,
        "launcher_code": 1,
        "outcome": None,
        "stop": None,
        "killed_here": frozenset(),
    }
    ending = Ending(states={state.rank: state for state in states}, launcher_said=said, **{**fields, **more})
    return judge(ending, RunDirectory(Path("RUN")))


def rank(number: int, **more: Any) -> RankState:
    return RankState(**{"rank": number, "pid": 100 + number, "host": "h", "phase": "train", **more})


def failed(number: int, code: int, time: float = 2.0) -> RankState:
    return rank(number, status="failed", exit_code=code, time=time, what=f"code {code}", fix="mend it")


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_the_cause_of_one_rank_counts_and_not_the_connection_that_its_peer_lost(code: int) -> None:
    verdict = judged(rank(0, **LOST), failed(1, code))
    assert (verdict.exit_code, verdict.problem and verdict.problem.what) == (code, f"code {code}")


def test_a_connection_lost_by_everyone_is_a_lost_worker() -> None:
    verdict = judged(rank(0, **LOST), rank(1, **{**LOST, "time": 2.0}))
    assert (verdict.exit_code, str(verdict.problem)) == (
        ExitCode.WORKER_LOST,
        "rank 0 failed: lost the connection to another rank: closed",
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_a_rank_that_a_signal_ended_is_a_lost_worker(number: signal.Signals) -> None:
    """SIGABRT: how NCCL's watchdog ends a rank whose collective timed out."""
    said = f"failed (exitcode: {-number}) local_rank: 1 (pid: 101) of binary: python"
    verdict = judged(rank(0, **LOST), rank(1), said=said)
    assert verdict.exit_code == ExitCode.WORKER_LOST
    assert verdict.problem is not None
    assert verdict.problem.what == f"rank 1 was killed by {number.name} in the phase 'train'"


HANG = Hang({0: "in step 3", 1: "in save"}, ("save", 30.0), "RUN/_sft/stacks")


def test_a_hang_is_a_lost_worker_wherever_the_ranks_are() -> None:
    for states in ([], [rank(0), rank(1)]):
        verdict = judged(*states, launcher_code=None, hang=HANG)
        assert (verdict.exit_code, str(verdict.problem)) == (
            6,
            "rank 0 in step 3, rank 1 in save: no progress for 30 s (limit of save)\n  where: RUN/_sft/stacks\n"
            "  fix:   see there what they wait for; if it only takes longer, set launch.limits.save above 30",
        )


def test_a_failure_that_left_the_others_hanging_comes_before_the_hang() -> None:
    assert judged(rank(0), failed(1, 3), launcher_code=None, hang=HANG).exit_code == 3


@pytest.mark.parametrize(("code", "known"), [(4, 4), (3, 1), (1, 1)])
def test_a_full_disk_leaves_a_rank_only_its_exit_code(code: int, known: int) -> None:
    said = f"failed (exitcode: {code}) local_rank: 1 (pid: 101) of binary: python"
    assert judged(rank(0, **LOST), rank(1), said=said).exit_code == known


def test_another_node_whose_ranks_are_done_is_done_however_their_processes_ended() -> None:
    said = f"failed (exitcode: {-signal.SIGABRT}) local_rank: 1 (pid: 103) of binary: python"
    verdict = judged(rank(2, status="done"), rank(3, status="done"), said=said, first_rank=2)
    assert (verdict.exit_code, verdict.problem) == (ExitCode.DONE, None)
