"""What a batch job says of itself in the run directory, and what is to become of it when a start has ended.

One line a word in `_sft/jobs.jsonl`: submitted, begun, ended. It is written by the login node and by the first node of the
job, never at the same time.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sft.checkpoint.find import complete
from sft.errors import ExitCode, Problem
from sft.events import EventLog, read_events
from sft.launch.said import read_object
from sft.plan.plan import read_plan
from sft.rundir import RunDirectory

FIRST_PORT = 20_000
PORTS = 10_000
"""Below those that Linux gives to connections of its own accord (32768 and up)."""
STARTS_IN_VAIN = 2
"""So many starts in a row that ended where they had begun are the last."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a job: at which checkpoint's step it began and ended, when it began, and how it ended."""

    job: str
    begun: int
    at: float = 0.0
    ended: int | None = None
    code: int | None = None


@dataclass(frozen=True, slots=True)
class JobBook:
    """Read of `_sft/jobs.jsonl`: what was submitted, oldest first, and every start."""

    jobs: list[str] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    chain: list[str] = field(default_factory=list)
    """The jobs that the last submission has put one behind the other."""
    platform: str = "slurm"
    """That it was submitted to."""
    cancelled: set[str] = field(default_factory=set)
    """Those that `sft cancel` was called for."""

    @property
    def in_vain(self) -> int:
        """How many of the last starts came no further."""
        count = 0
        for start in reversed(self.starts):
            if start.ended is None or start.ended > start.begun:
                break
            count += 1
        return count


def read_book(run: RunDirectory) -> JobBook:
    """Read what the jobs of a run have said; empty where none was submitted."""
    book = JobBook()
    for said in read_events(run.jobs_jsonl):
        match said["event"]:
            case "submitted":
                book.jobs.extend(job for job in said["jobs"] if job not in book.jobs)
                book = replace(book, chain=list(said["jobs"]), platform=said.get("on", book.platform))
            case "begun":
                if said["job"] not in book.jobs:  # submitted by hand
                    book = replace(
                        book, jobs=[*book.jobs, said["job"]], chain=[said["job"]], platform="slurm"
                    )
                book.starts.append(Start(said["job"], said["step"], said["time"]))
            case "ended" if book.starts:
                book.starts[-1] = replace(book.starts[-1], ended=said["step"], code=said["code"])
            case "cancelled":
                book.cancelled.add(said["job"])
    return book


def note(run: RunDirectory, said: str, **fields: Any) -> None:
    """Append one word of a job: submitted, begun, ended, cancelled."""
    EventLog(run.jobs_jsonl).write(said, **fields)


def newest_step(run: RunDirectory) -> int:
    """Return the step that the run would continue from."""
    return max((found.manifest.step for found in complete(run)), default=0)


def free_port(job: str, *, first: int = FIRST_PORT) -> int:
    """Choose where the nodes of a job meet: from its number, so that two jobs on one node do not try the same.

    Raises:
        OSError: none of the ports is free.
    """
    digits = "".join(filter(str.isdecimal, job))
    offset = int(digits or 0) % PORTS
    for turn in range(PORTS):
        port = first + (offset + turn) % PORTS
        with socket.socket() as probe:
            # As torchrun's store will: a connection of an earlier job that lingers is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port between {first} and {first + PORTS - 1} is free")


def differs(run: RunDirectory, environment: Mapping[str, str]) -> Problem | None:
    """Say where the job has other nodes or GPUs than the run file asks for: options of sbatch win over the script's.

    Args:
        environment: of the job's script.
    """
    if not run.plan_json.exists():
        return None
    plan = read_plan(run.plan_json)
    asked = [("nodes", plan.nodes, environment.get("SLURM_JOB_NUM_NODES"), "launch.nodes")]
    if plan.device == "gpu":
        gpus = environment.get("SLURM_GPUS_ON_NODE")
        asked.append(("GPUs on this node", plan.processes_per_node, gpus, "launch.gpus_per_node"))
    for what, wanted, given, key in asked:
        if given is not None and given.isdecimal() and int(given) != wanted:
            return Problem(
                f"the job has {given} {what}, and the run file asks for {wanted}",
                "the options of sbatch",
                f"submit it with what the run file says, or set {key}: {given} and submit it anew",
            )
    return None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of a job whose start has ended.

    Attributes:
        code: the exit code of the run, which becomes the script's.
        requeue: whether the run goes on in another start.
        why: said to people.
    """

    code: int
    requeue: bool
    why: str


def decide(
    outcome: Mapping[str, Any] | None, status: int, book: JobBook, *, can_requeue: bool, is_cancelled: bool
) -> Decision:
    """Decide how a start ended, and whether another is to follow.

    Args:
        outcome: what the run says of its end; None where it could not say anything.
        status: of srun.
        book: with this start as its last, and its end noted.
        can_requeue: whether the job may go back into the queue.
        is_cancelled: whether Slurm was told to end the job.
    """
    code = int(outcome["exit_code"]) if outcome else status or int(ExitCode.BUG)
    if outcome is None and status > 128:
        # Signalled, and gone without a word: a node, a supervisor or the job was ended from outside.
        code = int(ExitCode.WORKER_LOST)
    if code == ExitCode.DONE:
        return Decision(code, False, "the run is done")
    last = book.starts[-1] if book.starts else None
    if is_cancelled or (last is not None and last.job in book.cancelled):
        return Decision(code, False, "the job was cancelled; the run continues when it is submitted again")
    came_on = last is not None and last.ended is not None and last.ended > last.begun
    if code == ExitCode.STOPPED:
        if outcome and str(outcome.get("reason", "")).startswith("sft cancel"):
            return Decision(
                code, False, "stopped by `sft cancel`; the run continues when it is submitted again"
            )
        why = "stopped before it was done"
    elif code == ExitCode.WORKER_LOST and not came_on and not (outcome or {}).get("step"):
        lost = [start for start in book.starts[:-1] if start.code == code and start.ended == start.begun]
        if lost and lost[-1] is book.starts[-2]:
            return Decision(code, False, "a node or worker was lost before the first step, twice in a row")
        why = "a node or worker was lost before the first step"
    else:
        return Decision(code, False, _why_not(code))
    if book.in_vain >= STARTS_IN_VAIN:
        at = f"step {last.begun}" if last and last.begun else "the start"
        return Decision(code, False, f"{why}, but {book.in_vain} starts in a row came no further than {at}")
    if not can_requeue:
        return Decision(code, False, f"{why}; the run continues when it is submitted again")
    return Decision(code, True, f"{why}; it goes back into the queue")


def _why_not(code: int) -> str:
    if code == ExitCode.WORKER_LOST:
        return "a worker was lost; `--max-restarts N` starts again inside the job"
    return "it would fail again"


def outcome_of(run: RunDirectory, start: Start | None) -> Mapping[str, Any] | None:
    """Return what the run says of its end, where it was written since this start."""
    try:
        if start is not None and run.outcome_json.stat().st_mtime < start.at:
            return None
    except FileNotFoundError:
        return None
    return read_object(run.outcome_json)
