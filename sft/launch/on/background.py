"""A process of this machine that goes on when its user logs out: a workstation, a cloud machine, a login node's allocation.

A launch in the foreground is asked and stopped through this file too. A job is `pid@host`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from sft.config.loader import LoadedRun
from sft.errors import ExitCode, Problem, UserError
from sft.launch.lock import holder_of
from sft.launch.platform import JobState, Submission
from sft.launch.said import read_object
from sft.launch.script import head_lines
from sft.launch.stop import write_stop_file
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

SCRIPT = "job.sh"
IS_ELSEWHERE = False
IS_ATTENDED = False
REASON = "sft cancel"


def problems(loaded: LoadedRun, plan: Plan) -> Iterator[Problem]:
    """Refuse several machines."""
    if plan.nodes > 1:
        yield Problem(
            f"the run is for {plan.nodes} machines, and a process in the background is on this one alone",
            loaded.where("launch.nodes"),
            "use --on slurm or --on ssh, or --nodes 1",
        )


def script(submission: Submission) -> str:
    """Return the script that becomes the supervisor."""
    launch = 'exec "$SFT" launch "$RUN_FILE" "${OVERRIDES[@]}"'
    return "\n".join([*head_lines(submission), "", "export PYTHONSAFEPATH=1", launch, ""])


def submit(submission: Submission, script: Path) -> list[str]:
    """Start the script in a session of its own, and return its process."""
    run = submission.run
    run.logs.mkdir(parents=True, exist_ok=True)
    beginning = run.logs / f"job-{time.time_ns()}.log"
    with beginning.open("ab") as output:
        process = subprocess.Popen(
            ["bash", str(script)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    job = f"{process.pid}@{socket.gethostname()}"
    beginning.rename(log(run, job))
    return [job]


def state(run: RunDirectory, job: str) -> JobState:
    """Look for the process: among this machine's, or, where it is another's, by what it has left in the run directory."""
    pid, host = _parts(job)
    if _is_there(run, pid, host):
        return JobState(job, "running", "RUNNING", nodes=host)
    outcome = read_object(run.outcome_json) or {}
    code = outcome.get("exit_code")
    return JobState(job, "over", "ENDED", nodes=host, exit_code=code if isinstance(code, int) else None)


def stop(run: RunDirectory, job: JobState, *, now: bool) -> str:
    """Signal the process; one on another machine is asked by a file in the run directory."""
    pid, host = _parts(job.job)
    if host == socket.gethostname():
        _signal(pid, signal.SIGKILL if now else signal.SIGTERM)
        return f"process {pid} is ended" if now else f"process {pid} saves a checkpoint and ends"
    if now:
        raise UserError(
            f"the run is process {pid} on {host}, which cannot be ended at once from here",
            str(run.lock),
            f"ssh {host} kill -KILL {pid}, or without --now: it saves and ends",
            exit_code=ExitCode.ENVIRONMENT,
        )
    write_stop_file(run, REASON)
    return f"process {pid} on {host} saves a checkpoint and ends at the end of a step"


def log(run: RunDirectory, job: str) -> Path:
    """Return the file that the process prints to."""
    return run.logs / f"job-{job}.log"


def _parts(job: str) -> tuple[int, str]:
    pid, _, host = job.partition("@")
    return int(pid), host


def _is_there(run: RunDirectory, pid: int, host: str) -> bool:
    """Whether a process still is what was started: its number may be another's by now."""
    import psutil  # type: ignore[import-untyped]  # it brings no types

    holder = holder_of(run)
    holds = holder is not None and (holder.get("pid"), holder.get("host")) == (pid, host)
    if holds or host != socket.gethostname():
        return holds
    try:
        process = psutil.Process(pid)
        # Until it holds the run directory, it is known by the script or the run file on its command line.
        return process.status() != psutil.STATUS_ZOMBIE and str(run.kit) in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    """Signal a process, at once its whole session where that is its own: what it started is to go too."""
    try:
        if number == signal.SIGKILL and os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise UserError(
            f"process {pid} is another user's", "sft cancel", "ask its owner, or write a file named _sft/stop"
        ) from None
