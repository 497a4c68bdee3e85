"""Workers of Cloudera's platform (CML, CDSW, Cloudera AI): machine 0 is the session or job that launches, the others are
asked of its Workers API.

The platform ends the workers with the session, so `sft launch` stays until the run is over. What holds the run is a process
beside it (`sft.launch.cml_job`), the job that `sft status`, `watch`, `logs` and `cancel` turn to.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sft.config.loader import LoadedRun
from sft.errors import ExitCode, Problem, UserError
from sft.launch import cml_room
from sft.launch.cml_api import ADDRESS, OVER, WorkersApi, find_api, own_address, worker_shape
from sft.launch.cml_worker import begin, read_workers
from sft.launch.on import background
from sft.launch.platform import JobState, Submission
from sft.launch.script import LOGS, head_lines, setup_lines
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

SCRIPT = "job.sh"
IS_ELSEWHERE = True
IS_ATTENDED = True

HERE = """
export PYTHONSAFEPATH=1

# --- here: the workers are asked for, and this script is run again for machine 0, beside them
if [[ ${1:-} != machine ]]; then
    exec "$SFT" job cml "$RUN" --script "$SCRIPT" --address "$MASTER_ADDR" --port "$MASTER_PORT"
fi
if [[ $2 != 0 ]]; then
    exec >>"$LOGS/node-$2.log" 2>&1
fi
"""
MACHINE = """
# --- on each machine: its rank, and the address and port of machine 0
export TERM=dumb  # nobody looks at this terminal
exec "$SFT" launch "$RUN_FILE" "${OVERRIDES[@]}" \\
    --machine_rank "$2" --main_process_ip "$3" --main_process_port "$4" "${@:5}"
"""


def problems(loaded: LoadedRun, plan: Plan) -> Iterator[Problem]:
    """Refuse a GPU type for workers without GPUs."""
    if loaded.config.launch.cml.accelerator is not None and plan.device == "cpu":
        yield Problem(
            "launch.cml.accelerator names GPUs, and the run trains on the CPU",
            loaded.where("launch.cml.accelerator"),
            "leave it out, or set launch.device: gpu",
        )


def script(submission: Submission) -> str:
    """Return the script that runs on every machine; on a single one it is that of a run in the background."""
    if submission.plan.nodes == 1:
        return background.script(submission)
    launch = submission.launch
    address = shlex.quote(launch.main_process_ip) if launch.main_process_ip else f'"${{{ADDRESS}:-}}"'
    knobs = [
        f"SCRIPT={shlex.quote(str(submission.run.kit / SCRIPT))}  # this file: each machine reads it",
        f"MASTER_ADDR={address}  # of this session, as the workers reach it",
        f"MASTER_PORT={launch.main_process_port or 0}  # 0: any that is free",
        LOGS,
    ]
    head = head_lines(submission, knobs=knobs, has_setup=False)
    return "\n".join([*head, HERE.rstrip(), *setup_lines(submission), MACHINE])


def submit(submission: Submission, script: Path) -> list[str]:
    """Start the process that holds the run, once the platform has been asked what can be asked.

    Raises:
        UserError: there is no Workers API, or the workspace cannot give what the run needs.
    """
    launch, plan, run = submission.launch, submission.plan, submission.run
    if plan.nodes > 1:
        api = find_api()
        own_address(launch)
        shape = worker_shape(launch, plan.processes_per_node if plan.device == "gpu" else 0)
        found = cml_room.look(shape, plan.nodes - 1, launch.cml.accelerator, "launch.cml.accelerator")
        for line in found.notes:
            _say(f"note: {line}")
        if left := _stop_left_over(run, api):
            _say(f"workers of an earlier launch still ran, and are stopped: {', '.join(left)}")
    begin(run)
    return background.submit(submission, script)


def state(run: RunDirectory, job: str) -> JobState:
    """Look for that process, and for what it says of the workers."""
    found = background.state(run, job)
    if found.is_over and (code := _ended_with(job)) is not None:
        return replace(found, exit_code=code)
    workers = read_workers(run)
    if found.is_over or not workers:
        return found
    nodes = f"{found.nodes} and {len(workers)} worker{'s' if len(workers) > 1 else ''}"
    waiting = [worker.status for worker in workers if not worker.has_begun]
    if not waiting:
        return replace(found, nodes=nodes)
    return replace(
        found, nodes=nodes, phase="waiting", state="SCHEDULING", reason=f"workers: {', '.join(waiting)}"
    )


def stop(run: RunDirectory, job: JobState, *, now: bool) -> str:
    """Ask that process, which has the run save and end; or end it, machine 0 with it, and stop the workers."""
    told = background.stop(run, job, now=now)
    if not now:
        return told
    try:
        stopped = _stop_left_over(run, find_api())
    except UserError:  # machine 0's connections are closed, which ends them
        return f"{told}; its workers miss machine 0, and end by themselves"
    return f"{told}, and {len(stopped)} worker{'' if len(stopped) == 1 else 's'} with it"


def log(run: RunDirectory, job: str) -> Path:
    """Return the file that machine 0 prints to; the workers have `_sft/logs/node-N.log`."""
    return background.log(run, job)


def _ended_with(job: str) -> int | None:
    """Return what that process has ended with, the first time that its parent asks: others have to read what it left."""
    pid, _, host = job.partition("@")
    if host != socket.gethostname():
        return None
    try:
        ended, status = os.waitpid(int(pid), os.WNOHANG)
    except ChildProcessError:
        return None
    if not ended:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else int(ExitCode.WORKER_LOST)


def _stop_left_over(run: RunDirectory, api: WorkersApi) -> list[str]:
    """Stop those of the run's newest workers that the platform still has, and return their ids."""
    known = read_workers(run)
    if not known:
        return []
    try:
        statuses = api.statuses()
        left = [worker.id for worker in known if statuses.get(str(worker.id), "gone") not in OVER]
        api.stop(left)
    except Exception as failure:  # the platform's own kinds, which are nowhere else
        raise UserError(
            f"the workers of an earlier launch cannot be looked at: {type(failure).__name__}: {failure}",
            api.name,
            "try again; the session's page lists its workers",
            exit_code=ExitCode.ENVIRONMENT,
        ) from failure
    return [str(id) for id in left]


def _say(line: str) -> None:
    print(line, file=sys.stderr)
