"""What a supervisor knows of those on the other nodes, and how the run's end is found among all of theirs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from sft.errors import ExitCode, Problem
from sft.launch.link import Message
from sft.launch.said import read_tail
from sft.launch.verdict import Verdict


class Peers(Protocol):
    """The supervisors of the other nodes."""

    def failure(self) -> str | None:
        """Say which of them has ended otherwise than in order, if one has."""


def told(verdict: Verdict) -> Message:
    """Write how a node's ranks ended, for machine 0."""
    problem = verdict.problem
    shown = read_tail(verdict.log, 0) if verdict.show_log and verdict.log is not None else []
    return {
        "say": "ended",
        "status": verdict.status,
        "exit_code": int(verdict.exit_code),
        "time": time.time(),
        "is_consequence": verdict.is_consequence,
        "problem": None if problem is None else [problem.what, problem.where, problem.fix],
        "what": None if problem is None else problem.what,
        "log": str(verdict.log) if verdict.log is not None else None,
        "details": [*verdict.details, *shown],
    }


def settled(
    verdict: Verdict, others: Mapping[int, Mapping[str, Any] | None], hosts: Mapping[int, str]
) -> Verdict:
    """Return the end of the run: the first failure that was no consequence of another.

    Args:
        verdict: of machine 0, whose ranks agree on the run's end where they come to it.
        others: what the other machines have said; None of one that is gone.
    """
    if verdict.exit_code in (ExitCode.DONE, ExitCode.STOPPED) or not (
        verdict.is_consequence or verdict.exit_code == ExitCode.WORKER_LOST
    ):
        return verdict
    causes = [
        (message["is_consequence"], message["exit_code"] == ExitCode.WORKER_LOST, message["time"], rank)
        for rank, message in others.items()
        if message is not None and message["exit_code"] not in (ExitCode.DONE, ExitCode.STOPPED)
    ]
    gone = [rank for rank, message in others.items() if message is None]
    if gone and verdict.is_consequence:
        rank = min(gone)
        fix = "the node, or its supervisor, was ended from outside or lost its network; the run continues from its last"
        lost = Problem(f"machine {rank} ({hosts.get(rank)}) was lost", hosts.get(rank), f"{fix} checkpoint")
        return Verdict("failed", ExitCode.WORKER_LOST, lost)
    if not causes or (not verdict.is_consequence and min(causes)[1]):
        return verdict
    rank = min(causes)[3]
    message = others[rank]
    assert message is not None
    words: list[str | None] = message["problem"] or ["it failed", None, None]
    place = f"{words[1]} on {hosts.get(rank)}" if words[1] else hosts.get(rank)
    log = [f"  log:   {message['log']}"] if message["log"] else []
    problem = Problem(f"machine {rank}: {words[0]}", place, words[2])
    return Verdict(str(message["status"]), message["exit_code"], problem, details=(*log, *message["details"]))
