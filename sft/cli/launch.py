"""Check, plan and train a run file: on this machine, in the background, over ssh, or as a batch job.

The run file comes first, YAML or a task file; then any of its keys as `--key value`, which win over the file:

  sft launch run.yaml --learning_rate 2e-4 --packing --push_to_hub false
  sft launch run.yaml --on slurm
  sft launch tasks/a.py tasks/b.py

Where output_dir holds a checkpoint, the run continues from it. With --on the job's name goes to stdout.

Several run files are checked before the first one starts. Here they run one after another, with --on slurm as one job array,
and a table of what became of them goes to stdout; `sft table` prints it at any time.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sft.check.run import CheckedRun
    from sft.errors import UserError
    from sft.launch.platform import Platform
    from sft.rundir import RunDirectory

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from sft.launch.on import names

    parser.add_argument(
        "run_files", metavar="RUN", nargs="+", type=Path, help="the run file, YAML or a task file; or several"
    )
    parser.add_argument(
        "--on",
        choices=("here", *names()),
        default="here",
        help="where: this machine, in the foreground; in the background; machines by ssh; a batch job;"
        " workers of Cloudera's platform [here]",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write the configuration, print the command (with --on the script), and stop",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start anew; checkpoints that are there are moved aside, not deleted",
    )
    parser.add_argument(
        "--allow-changed",
        action="store_true",
        help="continue although the run file trains otherwise than before",
    )
    parser.add_argument(
        "--max-restarts",
        type=_count,
        default=0,
        metavar="N",
        help="start again up to N times, from the last checkpoint, after a worker or a connection was lost",
    )
    parser.add_argument(
        "--chain",
        type=_count,
        default=1,
        metavar="N",
        help="with --on slurm: N jobs, one after the other, where the cluster takes no job back into the queue",
    )
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="start without the checks that `sft check` makes; what cannot train is refused all the same",
    )
    parser.add_argument("--strict", action="store_true", help="refuse the data if any row would be dropped")


def _count(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word} is no number")
    return int(word)


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    from sft.errors import UserError
    from sft.launch.platform import platform

    if arguments.strict:
        extra = [*extra, "--strict_data", "true"]
    if arguments.chain != 1 and arguments.on != "slurm":
        raise UserError("--chain is for batch jobs", "--chain", "add --on slurm")
    asked = None if arguments.on == "here" else platform(arguments.on)
    if len(arguments.run_files) > 1:
        from sft.cli.several import run_several

        return run_several(arguments, extra, asked)
    (run_file,) = arguments.run_files
    checked = checked_run(run_file, arguments, extra, asked)
    tell(checked)
    if asked is not None:
        return submit_run(run_file, arguments, extra, checked, asked)
    return launch_here(run_file, arguments, extra, checked)


def checked_run(
    run_file: Path, arguments: argparse.Namespace, extra: list[str], asked: Platform | None
) -> CheckedRun:
    """Check one run file. What there is to say about it, `tell` says."""
    from sft.check.run import ALWAYS, BEFORE_A_LAUNCH, check_run
    from sft.errors import ExitCode, UserError
    from sft.launch.caches import no_room

    try:
        checked = check_run(
            run_file,
            extra,
            in_batch=asked is not None and asked.IS_ELSEWHERE,
            on=arguments.on,
            checks=ALWAYS if arguments.no_check else BEFORE_A_LAUNCH,
        )
        if asked is None and checked.plan.nodes > 1 and (problems := list(no_room())):
            raise UserError.of(problems, exit_code=ExitCode.ENVIRONMENT)
    except UserError as error:
        _tell_machine_0(run_file, extra, error)
        raise
    return checked


def tell(checked: CheckedRun) -> None:
    """Say what there is to say about a run that was checked, and how it will run."""
    for note in checked.notes:
        print(f"note: {note}", file=sys.stderr)
    for warning in checked.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for line in checked.plan.describe():
        print(line, file=sys.stderr)


def written_by_of(run_files: Sequence[Path], arguments: argparse.Namespace, extra: list[str]) -> str:
    """Return the command that is written into what it writes."""
    from sft.launch.command import one_line

    on = [] if arguments.on == "here" else ["--on", arguments.on]
    return one_line(shlex.join(["sft", "launch", *map(str, run_files), *on, *extra]))


def launch_here(run_file: Path, arguments: argparse.Namespace, extra: list[str], checked: CheckedRun) -> int:
    """Train a run file that was checked, or with --dry-run print its command."""
    from sft.launch.local import launch, prepare

    written_by = written_by_of([run_file], arguments, extra)
    if arguments.dry_run:
        print(prepare(checked.loaded, checked.plan, written_by=written_by).shell)
        return 0
    if checked.plan.machine_rank:
        from sft.launch.join import join

        return join(checked.loaded, checked.plan)
    return launch(
        checked.loaded,
        checked.plan,
        written_by=written_by,
        fresh=arguments.fresh,
        allow_changed=arguments.allow_changed,
        max_restarts=arguments.max_restarts,
    )


def _tell_machine_0(run_file: Path, extra: list[str], error: UserError) -> None:
    """Have nobody wait for a machine that refuses the run."""
    from sft.config.loader import load_run
    from sft.errors import UserError
    from sft.launch.join import refuse

    try:
        loaded = load_run(run_file, extra)
    except UserError:
        return  # machine 0 reads the same file
    if loaded.config.launch.machine_rank:
        refuse(loaded, error.problems)


def prove_offline(run_file: Path, extra: list[str]) -> None:
    """Refuse to submit what would look for something on nodes that have no internet."""
    from sft.check.offline import look
    from sft.errors import ExitCode, UserError

    found = look(run_file, extra)
    for line in found.lines:
        print(f"offline: {line}", file=sys.stderr)
    if found.problems:
        raise UserError.of(found.problems, exit_code=ExitCode.ENVIRONMENT)


def submit_run(
    run_file: Path, arguments: argparse.Namespace, extra: list[str], checked: CheckedRun, asked: Platform
) -> int:
    """Submit a run file that was checked, or with --dry-run print its script."""
    from sft.check.run import check_run
    from sft.launch.command import one_line
    from sft.launch.submit import prepare_job, submit

    launch = checked.loaded.config.launch
    for flags in launch.slurm.array if arguments.on == "slurm" else []:
        check_run(run_file, [*extra, *shlex.split(flags)], in_batch=True)
    if launch.offline:
        prove_offline(run_file, extra)
    submission, script = prepare_job(
        checked.loaded,
        checked.plan,
        asked,
        title=one_line(str(run_file)),
        written_by=written_by_of([run_file], arguments, extra),
        overrides=overrides_of(arguments),
        chain=arguments.chain,
    )
    if arguments.dry_run:
        print(script.read_text(encoding="utf-8"), end="")
        return 0
    jobs = submit(submission, script, asked, arguments.on, fresh=arguments.fresh)
    say_submitted(script, submission.run)
    print("\n".join(jobs), flush=True)
    if not asked.IS_ATTENDED:
        return 0
    from sft.launch.attend import attend

    return attend(submission.run, asked, jobs[-1], sys.stderr, stop_signals=launch.stop_signals)


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """Return what a job's own `sft launch` is given besides its run file."""
    overrides = ["--allow-changed"] if arguments.allow_changed else []
    return overrides + (["--max-restarts", str(arguments.max_restarts)] if arguments.max_restarts else [])


def say_submitted(script: Path, run: RunDirectory) -> None:
    """Say what was submitted, and how to follow it."""
    print(f"submitted: {script}", file=sys.stderr)
    print(f"logs: {run.logs}; `sft watch {shlex.quote(str(run.output_dir))}` follows it", file=sys.stderr)
