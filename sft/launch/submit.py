"""Submit a run to a platform: what its job needs is written into the run directory, then the script is handed over."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from sft.checkpoint import resume
from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.errors import ExitCode, UserError
from sft.files import write_whole
from sft.launch.lock import holder_of
from sft.launch.platform import Platform, Submission, job_states
from sft.launch.queue import note
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

PLACES = ("machine_rank", "main_process_ip", "main_process_port")
"""What each start of a job has anew."""


def settings_text(config: RunConfig, *, placed: bool = False) -> str:
    """Write a resolved run file: what the user has set, without where each start of it lies.

    Args:
        placed: keep the address of machine 0, which is the user's own.
    """
    from ruamel.yaml import YAML

    settings = config.settings()
    if not placed and "launch" in settings:
        settings["launch"] = {key: value for key, value in settings["launch"].items() if key not in PLACES}
    text = io.StringIO()
    YAML(typ="safe").dump(settings, text)
    return text.getvalue()


def prepare_job(
    loaded: LoadedRun,
    plan: Plan,
    platform: Platform,
    *,
    title: str,
    written_by: str,
    overrides: Sequence[str],
    chain: int = 1,
) -> tuple[Submission, Path]:
    """Write the run file as it is submitted, the plan and the script into the run directory.

    Returns:
        What is submitted, and the path of its script.

    Raises:
        UserError: the platform cannot do what the run file says, or the directory cannot be written.
    """
    submission = submission_of(
        loaded, plan, platform, title=title, written_by=written_by, overrides=overrides, chain=chain
    )
    write_submitted(loaded, submission)
    return submission, write_script(submission, platform)


def submission_of(
    loaded: LoadedRun,
    plan: Plan,
    platform: Platform,
    *,
    title: str,
    written_by: str,
    overrides: Sequence[str],
    chain: int = 1,
) -> Submission:
    """Return what a platform is asked for. Nothing is written yet.

    Raises:
        UserError: the platform cannot do what the run file says.
    """
    config = loaded.config
    run = config.run
    if problems := list(platform.problems(loaded, plan)):
        raise UserError.of(problems)
    _refuse_unwritable(run.output_dir)
    return Submission(
        launch=config.launch,
        plan=plan,
        run=run,
        sft=own_command(),
        directory=Path.cwd(),
        name=config.launch.slurm.job_name or config.training.run_name or run.output_dir.name,
        title=title,
        written_by=written_by,
        overrides=tuple(overrides),
        chained=chain,
    )


def write_submitted(loaded: LoadedRun, submission: Submission) -> None:
    """Write the run file as it is submitted, and its plan, into the run directory.

    Raises:
        UserError: the directory cannot be written.
    """
    run = submission.run
    try:
        run.logs.mkdir(parents=True, exist_ok=True)
        text = settings_text(loaded.config)
        write_whole(run.submitted_yaml, f"# The run file of: {submission.written_by}\n{text}")
        write_whole(run.plan_json, submission.plan.to_json())
    except OSError as error:
        raise _unwritten(error, run) from None


def write_script(submission: Submission, platform: Platform) -> Path:
    """Write the script of a submission into its run directory, and return its path.

    Raises:
        UserError: the directory cannot be written.
    """
    script = submission.run.kit / platform.SCRIPT
    try:
        write_whole(script, platform.script(submission))
        script.chmod(0o755)
    except OSError as error:
        raise _unwritten(error, submission.run) from None
    return script


def _unwritten(error: OSError, run: RunDirectory) -> UserError:
    return UserError(
        f"the run directory cannot be written: {error.strerror}",
        str(error.filename or run.output_dir),
        "set output_dir to a place that is yours, has room, and is mounted on the compute nodes",
        exit_code=ExitCode.ENVIRONMENT,
    )


def submit(
    submission: Submission, script: Path, platform: Platform, name: str, *, fresh: bool = False
) -> list[str]:
    """Hand the script to a platform, and return the jobs.

    Raises:
        UserError: the run waits or runs already, or the platform refuses it.
    """
    runs = submission.members or (submission.run,)
    for run in runs:
        _refuse_twice(run)
    for run in runs if fresh else ():
        resume.start_afresh(run, lambda line: print(line, file=sys.stderr))
    jobs = platform.submit(submission, script)
    if submission.members:
        jobs = [f"{job}_{task}" for job in jobs for task in range(len(runs))]
    for task, run in enumerate(runs):
        own = [jobs[task]] if submission.members else jobs
        note(run, "submitted", jobs=own, on=name, command=submission.written_by)
    return jobs


def own_command() -> Path:
    """Return the path of the command `sft` that is installed where this process runs.

    Raises:
        UserError: the kit runs from a directory that it is not installed from.
    """
    command = Path(sys.executable).with_name("sft")
    if not command.exists():
        raise UserError(
            "a batch job starts the command `sft`, and it is not installed beside this Python",
            str(command),
            "install the kit: bash launch/setup.sh, or pip install -e . in its directory",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return command


def _refuse_twice(run: RunDirectory) -> None:
    for state in job_states(run)[1]:
        if not state.is_over:
            raise UserError(
                f"the run has job {state.job} already, which is {state.state.lower()}",
                str(run.output_dir),
                f"`sft status {shlex.quote(str(run.output_dir))}` shows it, `sft cancel` ends it; or choose another"
                " output_dir",
            )
    if (holder := holder_of(run)) is not None:
        raise UserError(
            f"the run runs already: process {holder.get('pid')} on {holder.get('host')}",
            str(run.output_dir),
            "wait for it to end, stop it with `sft cancel`, or choose another output_dir",
        )


def _refuse_unwritable(path: Path) -> None:
    """Refuse what a line of the script, or Slurm's own reading of a log's name, cannot hold."""
    text = str(path)
    if any(ord(letter) < 32 or letter in "\\" for letter in text):
        raise UserError(
            f"Slurm cannot write a log into {text!r}",
            "output_dir",
            "choose a directory whose name has no backslash and no control character",
        )
