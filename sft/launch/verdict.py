"""How a supervised run ended, from what it left behind. Reads files; ends nothing and prints nothing.

The ranks' own word comes first (`outcome.json`, then `ranks/rank-N.json`), because torchrun turns every exit
code into 1 and ends the other ranks on its own. What a rank could not say itself, since it was killed, is
read from the launcher's log.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.errors import ExitCode, Problem
from sft.launch.said import RankState, has_trained
from sft.launch.watch import Hang
from sft.rundir import RunDirectory

# `failed (exitcode: -9) local_rank: 1 (pid: 7900)` and `exitcode  : -9 (pid: 7900)`, as torchrun writes them.
TORCHRUN_CODES = re.compile(r"exitcode\s*: (-?\d+)\)?(?: local_rank: \d+)? \(pid: (\d+)\)")
# `Command '[...]' died with <Signals.SIGKILL: 9>.` or `returned non-zero exit status 3.`, as accelerate's
# launcher of a single process ends.
SINGLE_PROCESS = re.compile(r"died with <Signals\.\w+: (\d+)>|returned non-zero exit status (\d+)")
PORT_IN_USE = re.compile(r"EADDRINUSE|[Aa]ddress already in use|another process is utilizing it")
NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")
NO_SPACE = re.compile(r"\[Errno (?:28|122)\] [^\n]*")


@dataclass(frozen=True, slots=True)
class Ending:
    """What the supervisor saw.

    Attributes:
        launcher_pid: of the process that was started, which is the rank where there is no launcher between.
        launcher_code: as of subprocess.Popen: negative for a signal; None where the supervisor ended it.
        states: by rank; a rank that never wrote its state is missing.
        outcome: what the ranks agreed on, where they came to it.
        stop: how the user's wish to stop went: not asked for, "asked", "at once", or "out of time".
        killed_here: pids that the supervisor killed, whose signals say nothing about the cause.
        launcher_said: the launcher's log of this launch.
        hang: why the supervisor ended a run that came no further.
        first_rank: of the `ranks` that this supervisor has started; rank 0 says how the run ended.
        peer: which other node has failed, if one has.
    """

    ranks: int
    launcher_pid: int
    launcher_code: int | None
    states: Mapping[int, RankState]
    outcome: Mapping[str, Any] | None
    stop: str | None
    killed_here: frozenset[int]
    launcher_said: str
    hang: Hang | None = None
    first_rank: int = 0
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a run: its code, what to say, whose log shows more, and lines to say after it."""

    status: str
    exit_code: int
    problem: Problem | None = None
    log: Path | None = None
    show_log: bool = False
    details: tuple[str, ...] = ()
    is_consequence: bool = False
    """Of what happened on another node, most likely."""


def judge(ending: Ending, run: RunDirectory) -> Verdict:
    """Decide how the run ended.

    A run that was asked to stop and did not fail of its own ends with 75 even where it was killed before it
    could save: it resumes from its last checkpoint, and schedulers requeue on this code.
    """
    # A lost connection is what the peers of a failed rank see, so it comes after every other failure.
    failed = sorted(
        (state for state in ending.states.values() if state.status == "failed"),
        key=lambda state: (state.exit_code == ExitCode.WORKER_LOST, state.time, state.rank),
    )
    codes = _exit_codes(ending)
    signals = {rank: -code for rank, code in codes.items() if code < 0}
    everyone_is_done = [state.status for state in ending.states.values()] == ["done"] * ending.ranks
    # After a stop, or where the supervisor ended ranks that hung at their exit, the launcher's code says nothing.
    is_ended_here = ending.launcher_code is None or ending.stop is not None
    if ending.outcome is not None and (
        ending.launcher_code == 0 or everyone_is_done or (is_ended_here and not failed and not signals)
    ):
        return _agreed(ending.outcome, run)
    # Whatever became of the processes afterwards: gloo's threads may abort an interpreter that ends.
    if ending.first_rank and everyone_is_done:
        return Verdict("done", ExitCode.DONE)
    if not ending.states and ending.hang is None and ending.peer is None:
        return _never_started(ending, run)
    # Peers of a killed rank fail too, often before torchrun has noticed either.
    is_consequence = failed and (
        signal.SIGKILL in signals.values()
        or (signals and not failed[0].is_user_problem)
        or (codes and failed[0].exit_code == ExitCode.WORKER_LOST)
    )
    if failed and not is_consequence:
        return _failed(failed[0], run)
    if ending.hang is not None:
        return Verdict("failed", ExitCode.WORKER_LOST, ending.hang.problem, details=ending.hang.details)
    if ending.stop is not None:
        return _stopped(ending)
    if ending.peer is not None and not signals:
        return Verdict("failed", ExitCode.WORKER_LOST, Problem(ending.peer), is_consequence=True)
    missing = [
        rank
        for rank in range(ending.first_rank, ending.first_rank + ending.ranks)
        if rank not in ending.states or ending.states[rank].status == "running"
    ]
    if signals:
        return _killed(ending.states[next(iter(signals))], next(iter(signals.values())), run)
    if codes:
        rank, code = next(iter(codes.items()))
        problem = Problem(f"rank {rank} ended with exit code {code} and did not say why")
        # A rank says by its code alone that the disk is full.
        known = ExitCode.ENVIRONMENT if code == ExitCode.ENVIRONMENT else ExitCode.BUG
        return Verdict("failed", known, problem, run.rank_log(rank), show_log=True)
    if ending.launcher_code is not None and ending.launcher_code < 0:
        return _launcher_killed(-ending.launcher_code, run)
    if missing:
        return _lost(missing, run)
    problem = Problem(
        "every rank ended, but they did not say how the run ended",
        str(run.outcome_json),
        "this is a bug of the kit: please report it with the logs beside that file",
    )
    return Verdict("failed", ExitCode.BUG, problem, run.rank_log(0), show_log=True)


def cannot_start(command: Sequence[str], error: OSError) -> Verdict:
    """Say that there is nothing to supervise."""
    problem = Problem(
        f"cannot start {command[0]}: {error.strerror or error}",
        " ".join(command),
        "activate the environment that the kit is installed in",
    )
    return Verdict("failed", ExitCode.ENVIRONMENT, problem)


def _agreed(outcome: Mapping[str, Any], run: RunDirectory) -> Verdict:
    status, code = str(outcome.get("status", "failed")), int(outcome.get("exit_code", ExitCode.BUG))
    if status != "failed":
        return Verdict(status, code)
    problem = Problem(str(outcome.get("what", "the run failed")), outcome.get("where"), outcome.get("fix"))
    return Verdict(status, code, problem, run.rank_log(0), show_log=code == ExitCode.BUG)


def _failed(state: RankState, run: RunDirectory) -> Verdict:
    if state.is_user_problem:
        problem = Problem(state.what, state.where, state.fix)
    else:
        problem = Problem(f"rank {state.rank} failed: {state.what}")
    status = "stopped" if state.exit_code == ExitCode.STOPPED else "failed"
    return Verdict(
        status,
        state.exit_code,
        problem,
        run.rank_log(state.rank),
        show_log=not state.is_user_problem,
        is_consequence=state.exit_code == ExitCode.WORKER_LOST,
    )


def _stopped(ending: Ending) -> Verdict:
    if not has_trained(ending.states):
        what = "stopped before the training began: nothing is lost"
    elif ending.stop == "at once":
        what = "stopped at once, as asked: what was trained since the last checkpoint is lost"
    elif ending.stop == "out of time":
        what = "the run did not stop in the time it was given: what was trained since the last checkpoint is lost"
    else:
        what = "stopped before it could save: what was trained since the last checkpoint is lost"
    return Verdict("stopped", ExitCode.STOPPED, Problem(what))


def _never_started(ending: Ending, run: RunDirectory) -> Verdict:
    if ending.stop is not None:
        return _stopped(ending)
    said, log = ending.launcher_said, str(run.launcher_log)
    if PORT_IN_USE.search(said):
        problem = Problem(
            "the port that the processes meet on is in use",
            log,
            "set main_process_port to a free port, or to 0 on one machine to have one chosen",
        )
        return Verdict("failed", ExitCode.ENVIRONMENT, problem, run.launcher_log)
    if found := NO_MODULE.search(said):
        problem = Problem(
            f"the Python module {found[1]} is missing in the environment that the launcher runs in",
            log,
            "activate the environment that the kit is installed in, or install what is missing",
        )
        return Verdict("failed", ExitCode.ENVIRONMENT, problem, run.launcher_log)
    if found := NO_SPACE.search(said):
        problem = Problem(f"the disk or its quota is full: {found[0]}", log, "make room and start again")
        return Verdict("failed", ExitCode.ENVIRONMENT, problem, run.launcher_log)
    if ending.launcher_code is not None and ending.launcher_code < 0:
        return _launcher_killed(-ending.launcher_code, run)
    how = "" if ending.launcher_code is None else f" (exit code {ending.launcher_code})"
    problem = Problem(f"the launcher ended{how} before any rank began")
    return Verdict("failed", ExitCode.BUG, problem, run.launcher_log, show_log=True)


def _launcher_killed(number: int, run: RunDirectory) -> Verdict:
    problem = Problem(
        f"the launcher was killed by {_name(number)}, and its ranks with it",
        None,
        "start the run again" if number != signal.SIGKILL else MEMORY,
    )
    return Verdict("failed", ExitCode.WORKER_LOST, problem, run.launcher_log)


MEMORY = (
    "the likely cause is that the machine's memory ran out (see `dmesg -T | tail`, or `sacct -o MaxRSS` under "
    "Slurm): use fewer processes or DataLoader workers, or ask for more memory; then start the run again"
)
FIXES: dict[int, str] = {
    signal.SIGKILL: MEMORY,
    signal.SIGBUS: "the likely cause is a full /dev/shm or disk: make room there, then start the run again",
}


def _killed(state: RankState, number: int, run: RunDirectory) -> Verdict:
    what = f"rank {state.rank} was killed by {_name(number)}"
    if state.phase:
        what += f" in the phase {state.phase!r}"
    problem = Problem(what, f"pid {state.pid} on {state.host}", FIXES.get(number))
    return Verdict("failed", ExitCode.WORKER_LOST, problem, run.rank_log(state.rank), show_log=True)


def _lost(missing: list[int], run: RunDirectory) -> Verdict:
    ranks = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
    problem = Problem(f"{ranks} ended without a word: probably killed", None, MEMORY)
    return Verdict("failed", ExitCode.WORKER_LOST, problem, run.rank_log(missing[0]), show_log=True)


def _exit_codes(ending: Ending) -> dict[int, int]:
    """Find how the ranks that said nothing themselves ended, by rank, in the order of the launcher's log.

    SIGTERM is how torchrun ends the ranks beside the one that failed, so it is never a cause.
    """
    by_pid = {
        state.pid: state.rank
        for state in ending.states.values()
        if state.status == "running" and state.pid not in ending.killed_here
    }
    codes = {
        by_pid[int(pid)]: int(code)
        for code, pid in TORCHRUN_CODES.findall(ending.launcher_said)
        if int(pid) in by_pid and int(code) != -signal.SIGTERM
    }
    if ending.launcher_code and ending.launcher_pid in by_pid:
        codes[by_pid[ending.launcher_pid]] = ending.launcher_code
    elif ending.ranks == 1 and by_pid and (single := SINGLE_PROCESS.search(ending.launcher_said)):
        codes[next(iter(by_pid.values()))] = -int(single[1]) if single[1] else int(single[2])
    return codes


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
