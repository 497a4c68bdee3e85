"""A platform of one file, as a further one would be written: its workers are started through a Python API.

Stands for a service that takes a callable for each worker; here it is an executor of this process, whose workers share a
machine. It knows nothing of the kit but `sft/launch/platform.py`.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from sft.config.loader import LoadedRun
from sft.errors import Problem
from sft.launch.platform import JobState, Submission
from sft.launch.stop import write_stop_file
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

SCRIPT = "workers.txt"
IS_ELSEWHERE = True
IS_ATTENDED = False

_jobs: dict[str, list[Future[int]]] = {}


def problems(loaded: LoadedRun, plan: Plan) -> Iterator[Problem]:
    yield from ()


def script(submission: Submission) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = range(submission.plan.nodes)
    return "".join("\0".join(submission.command(rank, "127.0.0.1", port)) + "\n" for rank in ranks)


def submit(submission: Submission, script: Path) -> list[str]:
    workers = [line.split("\0") for line in script.read_text().splitlines()]
    executor = ThreadPoolExecutor(len(workers))
    name = f"pool-{len(_jobs)}"

    def work(words: list[str]) -> int:
        with log(submission.run, name).open("ab") as output:
            environment = {**os.environ, "PYTHONSAFEPATH": "1"}
            return subprocess.run(
                words, cwd=submission.directory, stdout=output, stderr=output, env=environment, check=False
            ).returncode

    _jobs[name] = [executor.submit(work, words) for words in workers]
    executor.shutdown(wait=False)
    return [name]


def state(run: RunDirectory, job: str) -> JobState:
    workers = _jobs[job]
    if not all(worker.done() for worker in workers):
        return JobState(job, "running", "WORKING")
    return JobState(job, "over", "DONE", exit_code=workers[0].result())


def stop(run: RunDirectory, job: JobState, *, now: bool) -> str:
    write_stop_file(run, "sft cancel")
    return f"{job.job} saves a checkpoint and ends"


def log(run: RunDirectory, job: str) -> Path:
    return run.logs / f"{job}.log"
