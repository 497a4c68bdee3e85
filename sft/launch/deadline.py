"""When a run has to have left: its own time limit, or the end that the scheduler gives the job.

It is worked out once, at the start, and kept on the clock that nobody sets.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from sft.deadline import Deadline

SCONTROL_SECONDS = 10.0
UNITS = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}
"""Of what colons part, without days: MM, MM:SS, HH:MM:SS."""


def seconds_of(time_limit: str) -> float | None:
    """Read a time limit in any of Slurm's forms; None for one that is no limit (0, UNLIMITED, ...).

    Source:
        `--time` of sbatch(1).
    """
    days, dash, rest = time_limit.rpartition("-")
    if not all(part.isdecimal() for part in [*rest.split(":"), *([days] if dash else [])]):
        return None
    parts = [int(part) for part in rest.split(":")]
    units = (3600, 60, 1) if dash else UNITS[len(parts)]
    total = sum(part * unit for part, unit in zip(parts, units, strict=False))
    return (86400 * int(days or 0) + total) or None


def find_deadline(
    time_limit: str | None,
    *,
    environment: Mapping[str, str] = os.environ,
    say: Callable[[str], None] = lambda line: None,
) -> Deadline | None:
    """Return the nearest of the ends that are set, or None where none is.

    Args:
        time_limit: counted from now.
        say: told of an end that lies in the past, which is another job's and counts for nothing.
    """
    ends: list[Deadline] = []
    if time_limit is not None and (seconds := seconds_of(time_limit)) is not None:
        ends.append(Deadline(time.monotonic() + seconds, f"launch.time_limit {time_limit}"))
    for at, source in _scheduled(environment):
        if at <= time.time():
            say(f"{source} lies in the past, and is not minded")
        else:
            ends.append(Deadline.at(at, source))
    return min(ends, key=lambda end: end.due, default=None)


def _scheduled(environment: Mapping[str, str]) -> Iterator[tuple[float, str]]:
    """Yield when the scheduler ends the job, in seconds since the epoch. LSF tells a job no such thing."""
    if job := environment.get("SLURM_JOB_ID"):
        at = _number(environment.get("SLURM_JOB_END_TIME")) or _slurm_end(job)
        if at is not None:
            yield at, f"the end of Slurm job {job}"
    if (job := environment.get("PBS_JOBID")) and (seconds := _number(environment.get("PBS_WALLTIME"))):
        yield _job_began("PBS_JOBID", job) + seconds, f"the end of PBS job {job}"


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None


def _slurm_end(job: str) -> float | None:
    """Ask Slurm, whose versions before 22.05 do not say it in the environment."""
    try:
        told = subprocess.run(
            ["scontrol", "show", "job", "-o", job],
            capture_output=True,
            text=True,
            timeout=SCONTROL_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    fields = dict(word.split("=", 1) for word in told.split() if "=" in word)
    if (end := _moment(fields.get("EndTime"))) is not None:
        return end
    begin, limit = _moment(fields.get("StartTime")), seconds_of(fields.get("TimeLimit", ""))
    return None if begin is None or limit is None else begin + limit


def _moment(text: str | None) -> float | None:
    """Read a local time as scontrol writes it; None for `Unknown`."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return None


def _job_began(variable: str, job: str) -> float:
    """Return when the oldest process above this one that belongs to the job was started: its shell."""
    import psutil  # type: ignore[import-untyped]

    began = psutil.Process().create_time()
    for process in psutil.Process().parents():
        try:
            if process.environ().get(variable) != job:
                break
            began = process.create_time()
        except psutil.Error:  # another user's: above the job
            break
    return float(began)
