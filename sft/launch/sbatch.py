"""The batch job of a run as the text of a script. Pure: the same run gives the same text.

What an HPC user would write by hand: options, knobs, the site's set-up, where the nodes meet, and one supervisor a node.
Each starts `accelerate launch` with its own machine rank. What is decided of a job's end, `sft job end` decides.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from sft.config.kit import LaunchConfig
from sft.errors import Problem
from sft.launch.deadline import seconds_of
from sft.launch.platform import Submission
from sft.launch.script import LOGS, head_lines
from sft.plan.plan import Plan

PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./*\[\]-]+")
"""What needs no quotes in an `#SBATCH` line. A `#` would begin a comment, and a backslash takes the next character."""
OWN_OPTIONS = {
    "--array": "launch.slurm.array",
    "--chdir": "the directory that you submit from",
    "--cpus-per-task": "launch.slurm.cpus_per_task",
    "--error": "output_dir",
    "--gpus-per-node": "launch.gpus_per_node",
    "--job-name": "launch.slurm.job_name",
    "--nodes": "launch.nodes",
    "--ntasks": "launch.nodes",
    "--ntasks-per-node": "one supervisor a node",
    "--open-mode": "append",
    "--output": "output_dir",
    "--requeue": "launch.slurm.requeue",
    "--no-requeue": "launch.slurm.requeue",
    "--signal": "launch.slurm.signal_seconds",
    "--time": "launch.time_limit",
    "-J": "launch.slurm.job_name",
    "-N": "launch.nodes",
    "-n": "launch.nodes",
    "-o": "output_dir",
    "-t": "launch.time_limit",
}
"""Options that the kit writes itself, by the key that says them."""

NODE = """\
set -euo pipefail
# What is compiled goes to the node's own disk; the supervisor is signalled too, and decides what to do about it.
scratch=$(mktemp -d "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/sft-$SLURM_JOB_ID.XXXXXX")
leave() {
    local code=$?
    rm -rf "$scratch"
    if [[ $SLURM_NODEID == 0 ]]; then echo "$code" >"$RUN/_sft/exit-code"; fi
}
trap leave EXIT
trap : USR1 TERM INT HUP
export TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-$scratch/triton}"
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$scratch/torch_extensions}"
"$SFT" launch "$RUN_FILE" "$@" \\
    --machine_rank "$SLURM_NODEID" --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" 2>&1 |
    (trap '' USR1 TERM INT HUP; if [[ $SLURM_NODEID == 0 ]]; then exec tee -a "$LOGS/node-0.log"; fi
        exec cat >>"$LOGS/node-$SLURM_NODEID.log")
"""
"""What runs on each node. The job's own log shows node 0; every node has a log of its own."""


def sbatch_lines(
    launch: LaunchConfig, plan: Plan, *, name: str, log: Path, requeue: bool, tasks: int | None = None
) -> list[str]:
    """Return the `#SBATCH` lines of a run, each value quoted as sbatch reads it.

    Args:
        tasks: how many an array has; as many as `launch.slurm.array` if None.
    """
    slurm = launch.slurm
    tasks = len(slurm.array) if tasks is None else tasks
    signal = "USR1" if "SIGUSR1" in launch.stop_signals else launch.stop_signals[0].removeprefix("SIG")
    at_once = f"%{slurm.array_at_once}" if slurm.array_at_once else ""
    gpus = plan.device == "gpu" and slurm.gres is None
    options: list[tuple[str, object]] = [
        ("job-name", name),
        ("partition", slurm.partition),
        ("account", slurm.account),
        ("qos", slurm.qos),
        ("reservation", slurm.reservation),
        ("time", launch.time_limit),
        ("nodes", plan.nodes),
        ("ntasks-per-node", 1),
        ("gpus-per-node", plan.processes_per_node if gpus else None),
        ("gres", slurm.gres),
        ("cpus-per-task", slurm.cpus_per_task),
        ("mem", slurm.mem),
        ("constraint", slurm.constraint),
        ("nodelist", slurm.nodelist),
        ("exclude", slurm.exclude),
        ("array", f"0-{tasks - 1}{at_once}" if tasks else None),
        ("mail-user", slurm.mail_user),
        ("mail-type", slurm.mail_type),
        ("output", str(log)),
        ("open-mode", "append"),
        ("signal", f"B:{signal}@{slurm.signal_seconds or _signal_seconds(launch.time_limit)}"),
    ]
    lines = [f"--{key}={_quoted(str(value))}" for key, value in options if value is not None]
    lines += ["--exclusive"] if slurm.exclusive else []
    lines += ["--requeue" if requeue else "--no-requeue"]
    for line in slurm.extra:
        key, equals, value = line.partition("=")
        lines.append(f"{key}={_quoted(value)}" if equals else line)
    return [f"#SBATCH {line}" for line in lines]


def _signal_seconds(time_limit: str | None) -> int:
    """Return how long before the end Slurm signals a job: the last resort, where the run does not know its end."""
    seconds = seconds_of(time_limit) if time_limit else None
    return 60 if seconds is None else max(1, min(60, round(seconds / 10)))


def extra_problems(launch: LaunchConfig, where: str) -> Iterator[Problem]:
    """Tell each further option that the kit writes itself: the second would win in silence."""
    for line in launch.slurm.extra:
        option = re.split(r"[ =]", line, maxsplit=1)[0]
        if option in OWN_OPTIONS:
            yield Problem(
                f"launch.slurm.extra holds {option}, which the kit writes itself",
                where,
                f"remove it; it is said by {OWN_OPTIONS[option]}",
            )


def job_script(job: Submission) -> str:
    """Return the script that `sbatch` takes."""
    slurm, run = job.launch.slurm, job.run
    requeues = slurm.requeue and job.chained == 1
    tasks = len(job.members or slurm.array)
    log = Path(str(run.logs).replace("%", "%%")) / ("job-%A_%a.log" if tasks else "job-%j.log")
    options = sbatch_lines(job.launch, job.plan, name=job.name, log=log, requeue=requeues, tasks=tasks)
    address = shlex.quote(job.launch.main_process_ip) if job.launch.main_process_ip else "$(hostname)"
    lines = [
        *head_lines(job, options=options, knobs=[*_array(job), *_members(job)]),
        "",
        "heard=''  # what Slurm says to this shell is passed on to every node's supervisor",
        "trap 'heard=USR1' USR1",
        "trap 'heard=TERM' TERM",
        "",
        "# --- where the nodes meet: a port from the job's number, free on this node, which is the first",
        f"MASTER_ADDR={address}",
        'MASTER_PORT=$("$SFT" job begin "$RUN") || exit "$?"',
        "if [[ $MASTER_PORT == finished ]]; then exit 0; fi",
        "export SFT RUN RUN_FILE LOGS MASTER_ADDR MASTER_PORT PYTHONSAFEPATH=1",
        "# srun takes its cores from here, not from the options above",
        'if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi',
        "",
        "# --- one supervisor a node",
        "read -r -d '' NODE <<'END' || true  # its end is the text's, which read takes for a failure",
        *NODE.splitlines(),
        "END",
        'srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=60 --unbuffered \\',
        '    bash -c "$NODE" node "${OVERRIDES[@]}" &',
        "step=$!",
        'while kill -0 "$step" 2>/dev/null; do',
        "    sleep 1 &",
        '    wait "$!" || true  # a signal ends it sooner',
        '    if [[ -n $heard ]]; then kill -s "$heard" "$step" 2>/dev/null || true; heard=\'\'; fi',
        "done",
        "code=0",
        'wait "$step" || code=$?',
        f'exec "$SFT" job end "$RUN" --status "$code"{" --requeue" if requeues else ""}',
    ]
    return "\n".join(lines) + "\n"


def _array(job: Submission) -> list[str]:
    """Give each task of a sweep its flags and a directory of its own."""
    if not job.launch.slurm.array:
        return []
    cases = [
        f"    {number}) OVERRIDES+=({shlex.join(shlex.split(flags))}) ;;"
        for number, flags in enumerate(job.launch.slurm.array)
    ]
    return [
        'case "$SLURM_ARRAY_TASK_ID" in',
        *cases,
        "esac",
        'RUN="$RUN/task-$SLURM_ARRAY_TASK_ID"',
        'OVERRIDES+=(--output_dir "$RUN")',
    ]


def _members(job: Submission) -> list[str]:
    """Give each task of an array of run files its own run, and a log there; the job's own would lie with the first run."""
    if not job.members:
        return [LOGS]
    cases = [
        f"    {number}) RUN={shlex.quote(str(run.output_dir))} ;;" for number, run in enumerate(job.members)
    ]
    return [
        'case "$SLURM_ARRAY_TASK_ID" in',
        *cases,
        "esac",
        'RUN_FILE="$RUN/_sft/submitted.yaml"',
        LOGS,
        'exec >>"$LOGS/job-$SLURM_JOB_ID.log" 2>&1',
    ]


def _quoted(value: str) -> str:
    """Return a value as sbatch reads one: it is not bash that does."""
    if PLAIN.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
