"""A batch job on a Slurm cluster. Speaks to Slurm by its commands, and works with and without accounting."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from sft.config.loader import LoadedRun
from sft.errors import ExitCode, Problem, UserError
from sft.launch.platform import JobState, Submission
from sft.launch.sbatch import extra_problems, job_script
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

SECONDS = 60.0
"""How long Slurm may take to answer: a busy controller takes tens of seconds."""
FIELD = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z/:_]*)=")
OVER = frozenset(
    (
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT", "GONE",
    )
)  # fmt: skip
"""States from which a job does not come back by itself."""
WAITING = frozenset(
    (
        "PENDING",
        "REQUEUED",
        "REQUEUE_HOLD",
        "REQUEUE_FED",
        "RESV_DEL_HOLD",
        "SPECIAL_EXIT",
        "CONFIGURING",
        "SUSPENDED",
    )
)
"""States of a job that is in the queue and does not run."""

SCRIPT = "job.sbatch"
IS_ELSEWHERE = True
IS_ATTENDED = False


def problems(loaded: LoadedRun, plan: Plan) -> Iterator[Problem]:
    """Tell each option of launch.slurm.extra that contradicts the kit's own."""
    return extra_problems(loaded.config.launch, loaded.where("launch.slurm.extra"))


def script(submission: Submission) -> str:
    """Return what sbatch takes."""
    return job_script(submission)


def submit(submission: Submission, script: Path) -> list[str]:
    """Submit a script, as often as it is chained, and return the numbers of its jobs.

    Raises:
        UserError: there is no Slurm, or it refuses the job; its own words are kept.
    """
    options = ["--dependency=singleton"] if submission.chained > 1 else []
    text, jobs = script.read_text(encoding="utf-8"), list[str]()
    for _ in range(submission.chained):
        told = _slurm(["sbatch", "--parsable", *options], stdin=text)
        if told.returncode:
            for job in jobs:
                cancel(job)
            words = _said(told)
            raise UserError(
                f"Slurm refuses the job: {words}",
                "sbatch",
                _fix(words),
                exit_code=ExitCode.ENVIRONMENT if "Unable to contact" in words else ExitCode.USAGE,
            )
        jobs.append(told.stdout.strip().partition(";")[0])
    return jobs


def state(run: RunDirectory, job: str) -> JobState:
    """Ask what has become of a job of a run."""
    return state_of(job)


def stop(run: RunDirectory, job: JobState, *, now: bool) -> str:
    """Take a job out of the queue or end it; one that runs, and not at once, is signalled to save and leave."""
    if now or job.is_waiting:
        cancel(job.job)
        return f"job {job.job} is cancelled" + ("" if now else ": it had not begun")
    ask_to_stop(job.job)
    return (
        f"job {job.job} saves a checkpoint and ends; `sft watch {shlex.quote(str(run.output_dir))}` shows it"
    )


def log(run: RunDirectory, job: str) -> Path:
    """Return the job's log; of an array, its task's that has written last."""
    tasks = sorted(run.logs.glob(f"job-{job}_*.log"), key=lambda path: path.stat().st_mtime)
    return tasks[-1] if tasks else run.logs / f"job-{job}.log"


def state_of(job: str) -> JobState:
    """Ask what has become of a job: of the controller, and of accounting where that has forgotten it.

    Raises:
        UserError: Slurm does not answer.
    """
    told = _slurm(["scontrol", "show", "job", "-o", job])
    if told.returncode == 0 and told.stdout.strip():
        return _from_scontrol(job, told.stdout.splitlines()[0])
    if "Invalid job id" not in told.stderr:
        raise UserError(
            f"Slurm does not say what has become of job {job}: {_said(told)}",
            "scontrol",
            "try again; `sinfo` shows whether the controller answers",
            exit_code=ExitCode.ENVIRONMENT,
        )
    if shutil.which("sacct") is None:
        return JobState(job, "over", "GONE")
    told = _slurm(["sacct", "-n", "-P", "-X", "-j", job, "-o", "State,ExitCode,NodeList"])
    line = next(iter(told.stdout.splitlines()), "") if told.returncode == 0 else ""
    if line.count("|") != 2:
        return JobState(job, "over", "GONE")
    word, code, nodes = line.split("|")
    return JobState(job, _phase(word.split()[0]), word.split()[0], nodes=nodes, exit_code=_code(code))


def cancel(job: str) -> None:
    """Cancel a job; one that has ended already is no error."""
    told = _slurm(["scancel", job])
    if told.returncode and "Invalid job id" not in told.stderr:
        raise UserError(
            f"job {job} cannot be cancelled: {_said(told)}",
            "scancel",
            f"try again, or: scancel {job}",
            exit_code=ExitCode.ENVIRONMENT,
        )


def ask_to_stop(job: str) -> None:
    """Signal the job's script, which passes it on to the supervisors: they save and leave."""
    told = _slurm(["scancel", "--batch", "--signal=USR1", job])
    if told.returncode:
        raise UserError(
            f"job {job} cannot be signalled: {_said(told)}",
            "scancel",
            f"try again, or: scancel --batch --signal=USR1 {job}",
            exit_code=ExitCode.ENVIRONMENT,
        )


def requeue(job: str) -> str | None:
    """Send a job back into the queue; return why Slurm will not, in its own words."""
    told = _slurm(["scontrol", "requeue", job])
    return _said(told) if told.returncode else None


def fields(line: str) -> dict[str, str]:
    """Read one line of `scontrol show ... -o`. Values hold spaces and equals signs: a name begins the next one."""
    found = list(FIELD.finditer(line))
    ends = [item.start() for item in found[1:]] + [len(line)]
    read: dict[str, str] = {}
    for item, end in zip(found, ends, strict=True):
        read.setdefault(item[1], line[item.end() : end].strip())
    return read


def _from_scontrol(job: str, line: str) -> JobState:
    said = fields(line)
    reason = said.get("Reason", "")
    word = said.get("JobState", "GONE").split()[0]
    return JobState(
        job,
        _phase(word),
        word,
        reason="" if reason in ("None", "(null)") else reason,
        nodes="" if said.get("NodeList") in (None, "(null)") else said["NodeList"],
        begin=_moment(said.get("StartTime")),
        end=_moment(said.get("EndTime")),
        restarts=int(said.get("Restarts", "0")),
        exit_code=_code(said.get("ExitCode", "")),
    )


def _phase(word: str) -> Literal["waiting", "running", "over"]:
    if word in OVER:
        return "over"
    return "waiting" if word in WAITING else "running"


def _code(text: str) -> int | None:
    code, _, signal = text.partition(":")
    if not code.isdecimal() or not signal.isdecimal():
        return None
    return 128 + int(signal) if int(signal) else int(code)


def _moment(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return None


def _slurm(command: list[str], *, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            # Slurm writes times as SLURM_TIME_FORMAT has them, and what sbatch takes from its environment wins over
            # the lines of the script.
            env={name: value for name, value in os.environ.items() if not _misleads(name)},
            check=False,
        )
    except FileNotFoundError:
        raise UserError(
            f"there is no {command[0]} on this machine",
            "PATH",
            "run this on a login node of the cluster; `module load slurm` where a site has it so",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"Slurm did not answer within {SECONDS:.0f} s",
            " ".join(command),
            "try again; `scontrol ping` shows whether the controller is up",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None


def _misleads(name: str) -> bool:
    return name.startswith("SBATCH_") or name == "SLURM_TIME_FORMAT"


def _said(told: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (told.stderr or told.stdout).splitlines() if line.strip()]
    return re.sub(r"^\w+: error: ", "", lines[-1]) if lines else f"exit code {told.returncode}"


FIXES = (
    ("partition", "`sinfo -s` lists the partitions; set launch.slurm.partition"),
    ("account", "`sacctmgr show assoc user=$USER` lists your accounts; set launch.slurm.account"),
    ("qos", "set launch.slurm.qos to one of `sacctmgr show qos`"),
    ("time limit", "set launch.time_limit to what the partition allows: `sinfo -o '%P %l'`"),
    ("node configuration", "no node has what is asked for: see `sinfo -o '%P %D %c %m %G'`, and launch.gpus_per_node,"
     " launch.slurm.cpus_per_task and mem"),
    ("memory", "set launch.slurm.mem to what a node has: `sinfo -o '%P %m'`"),
)  # fmt: skip


def _fix(words: str) -> str:
    lowered = words.lower()
    return next((fix for word, fix in FIXES if word in lowered), "mend launch.slurm, and submit again")
