"""Submit jobs to a cluster, read what Slurm says of them, and wait for it."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.slurm.namespaces import POLL_SECONDS
from tests.slurm.settings import LOGIN

FINAL = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT"}
"""States that a job does not leave by itself; after NODE_FAIL and PREEMPTED it may be requeued."""
# Their values may hold anything, and end the line.
FREE_TEXT = ("JobName", "Comment", "AdminComment", "Command", "WorkDir", "StdErr", "StdIn", "StdOut")
_FREE = re.compile(rf"(?:^|\s)({'|'.join(FREE_TEXT)})=(.*)$")


def submit(
    cluster: Cluster,
    script: str | Path,
    *options: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Submit a script, given as text or as a path, and return the job's id.

    Args:
        options: for sbatch; after a path, words behind it cannot be given.
        cwd: where sbatch runs, and so the job; a directory of the cluster where None.
    """
    words = ["sbatch", "--parsable", *options]
    text = None
    if isinstance(script, Path):
        words.append(str(script))
    else:
        text = script if script.startswith("#!") else f"#!/bin/bash\n{script}\n"
    done = cluster.exec(LOGIN, words, input=text, cwd=cwd or cluster.directory / "jobs", env=env)
    return done.stdout.strip().partition(";")[0]


def job_record(cluster: Cluster, job: str) -> dict[str, str]:
    """Return what `scontrol show job` says; of an array, its first entry."""
    return parse_record(cluster.exec(LOGIN, ["scontrol", "show", "job", job]).stdout)


def parse_record(text: str) -> dict[str, str]:
    """Read the first record of `scontrol show job`, in which spaces part fields but also stand in some values."""
    record = {}
    for line in text.strip().partition("\n\n")[0].splitlines():
        free = _FREE.search(line)
        if free:
            record[free[1]] = free[2].rstrip()  # scontrol adds a space to some
            line = line[: free.start()]
        record.update(word.partition("=")[::2] for word in line.split() if "=" in word)
    return record


def job_output(cluster: Cluster, job: str) -> str:
    """Return what the job has written to its standard output so far."""
    path = Path(job_record(cluster, job)["StdOut"])
    return path.read_text(errors="replace") if path.exists() else ""


def wait_for_state(
    cluster: Cluster, job: str, states: str | Collection[str], timeout: float = 60
) -> dict[str, str]:
    """Wait until a job is in one of these states, and return its record.

    Raises:
        AssertionError: it ended in another state, or timed out; with the job's record and the end of its output.
    """
    wanted = {states} if isinstance(states, str) else set(states)
    end = time.monotonic() + timeout
    while True:
        record = job_record(cluster, job)
        state = record["JobState"]
        if state in wanted:
            return record
        if state in FINAL or time.monotonic() > end:
            raise AssertionError(_not_reached(cluster, job, record, wanted))
        time.sleep(POLL_SECONDS)


def _not_reached(cluster: Cluster, job: str, record: dict[str, str], wanted: set[str]) -> str:
    told = ("JobState", "Reason", "ExitCode", "Restarts", "RunTime", "NodeList")
    facts = " ".join(f"{key}={record.get(key)}" for key in told)
    output = "\n".join(job_output(cluster, job).splitlines()[-20:])
    return f"job {job} is not {' or '.join(sorted(wanted))}: {facts}\n{output}"
