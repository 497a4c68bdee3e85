"""Machines that are reached by ssh and see one file system, where there is no scheduler.

The job is the process here that holds the connections. A terminal there hangs up when its connection ends, by which the
supervisor knows that it is to stop.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft.config.loader import LoadedRun, load_run
from sft.errors import ExitCode, Problem, UserError
from sft.launch.lock import holder_of
from sft.launch.on import background
from sft.launch.platform import JobState, Submission
from sft.launch.script import LOGS, head_lines, setup_lines
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

SCRIPT = "job.sh"
IS_ELSEWHERE = True
IS_ATTENDED = False
PORT = 29500
SECONDS = 30.0

CONNECT = """
# --- here: a connection a machine; without its terminal there, a supervisor would not hear that it ends
start() { exec "${SSH[@]}" -tt "${HOSTS[$1]}" "exec bash ${SCRIPT@Q} machine $1" </dev/null; }
if [[ ${1:-} != machine ]]; then
    for ((rank = ${#HOSTS[@]} - 1; rank > 0; rank--)); do
        start "$rank" >>"$LOGS/node-$rank.log" 2>&1 &
    done
    start 0
fi
"""
MACHINE = """
# --- on each machine
export PYTHONSAFEPATH=1 TERM=dumb  # nobody looks at this terminal
exec "$SFT" launch "$RUN_FILE" "${OVERRIDES[@]}" \\
    --machine_rank "$2" --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT"
"""


def problems(loaded: LoadedRun, plan: Plan) -> Iterator[Problem]:
    """Hold the machines that are named against those that are planned for."""
    hosts = loaded.config.launch.ssh.hosts
    if not hosts:
        yield Problem(
            "--on ssh needs the names of the machines",
            loaded.where("launch.ssh.hosts"),
            'set launch.ssh.hosts: [first, second], or --launch.ssh.hosts \'["first", "second"]\'',
        )
    elif len(hosts) != plan.nodes:
        yield Problem(
            f"launch.ssh.hosts names {len(hosts)} machine{'s' if len(hosts) > 1 else ''}, and the run is for"
            f" {plan.nodes}",
            loaded.where("launch.nodes"),
            f"set launch.nodes: {len(hosts)}",
        )


def script(submission: Submission) -> str:
    """Return the script that connects to every machine, and that each of them runs."""
    launch, run = submission.launch, submission.run
    first = launch.main_process_ip or launch.ssh.hosts[0].rpartition("@")[2]
    knobs = [
        f"SCRIPT={shlex.quote(str(run.kit / SCRIPT))}  # this file: each machine reads it",
        f"HOSTS=({shlex.join(launch.ssh.hosts)})  # machine 0 first",
        f"SSH=({shlex.join(shlex.split(launch.ssh.command))})",
        f"MASTER_ADDR={shlex.quote(first)}  # of machine 0, as the others reach it",
        f"MASTER_PORT={launch.main_process_port or PORT}",
        LOGS,
    ]
    head = head_lines(submission, knobs=knobs, has_setup=False)
    return "\n".join([*head, CONNECT.rstrip(), *setup_lines(submission), MACHINE])


def submit(submission: Submission, script: Path) -> list[str]:
    """Start the connections from a process in the background."""
    return background.submit(submission, script)


def state(run: RunDirectory, job: str) -> JobState:
    """Look for that process; where it is gone, machine 0 may still be about to end."""
    found = background.state(run, job)
    holder = holder_of(run)
    if not found.is_over or holder is None or not _runs_there(run, holder):
        return found
    return JobState(job, "running", "RUNNING", "the connection has ended", nodes=str(holder.get("host")))


def stop(run: RunDirectory, job: JobState, *, now: bool) -> str:
    """End the connections, by which every supervisor stops in order; or end machine 0's, which ends them all."""
    holder = holder_of(run)
    if not now or holder is None:
        return background.stop(run, job, now=now)
    told = _on_machine_0(run, ["kill", "-KILL", str(holder.get("pid"))])
    if told.returncode:
        raise UserError(
            f"machine 0 cannot be reached: {told.stderr.strip()}",
            shlex.join(told.args),
            "try again, or without --now",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return f"process {holder.get('pid')} on {holder.get('host')} is ended, and the others after it"


def _runs_there(run: RunDirectory, holder: Mapping[str, Any]) -> bool:
    """Ask machine 0 for its supervisor; one that cannot be reached may well run."""
    return _on_machine_0(run, ["kill", "-0", str(holder.get("pid"))]).returncode != 1


def _on_machine_0(run: RunDirectory, words: list[str]) -> subprocess.CompletedProcess[str]:
    ssh = load_run(run.submitted_yaml).config.launch.ssh
    command = [*shlex.split(ssh.command), ssh.hosts[0], *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 255, "", str(error))


def log(run: RunDirectory, job: str) -> Path:
    """Return the file that the process here prints to; the machines besides machine 0 have logs of their own."""
    return background.log(run, job)
