"""Several run files in one launch: here one after another, each by an `sft launch` of its own; on Slurm as one job array.

A launch that fails, or is killed, takes none of the others with it. A wish to stop is passed on to the one that runs, and
ends the row.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sft.config.loader import LoadedRun
from sft.errors import ExitCode, Problem, UserError
from sft.launch import sbatch
from sft.launch.command import PACKAGE_ROOT
from sft.launch.platform import Submission
from sft.launch.script import setup_lines
from sft.launch.stop import StopRequests
from sft.parent import LINUX, bind_to
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

POLL_SECONDS = 0.1
LONGEST_NAME = 60
UNBEGUN = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGUSR1, 130)
"""How a launch ends that was told to stop before it had begun to listen."""


@dataclass(frozen=True, slots=True)
class Member:
    """One run file of a launch of several: as it was named, read and planned."""

    path: Path
    loaded: LoadedRun
    plan: Plan

    @property
    def run(self) -> RunDirectory:
        """Its run directory."""
        return self.loaded.config.run


def refuse_shared(members: Sequence[Member]) -> None:
    """Refuse two runs in one directory: the second would continue the first.

    Raises:
        UserError: each directory that is shared, with who shares it.
    """
    owners: dict[Path, Member] = {}
    problems = []
    for member in members:
        first = owners.setdefault(member.run.output_dir.resolve(), member)
        if first is not member:
            problems.append(
                Problem(
                    f"{first.path} and {member.path} have the same output_dir: {member.run.output_dir}",
                    member.loaded.where("output_dir"),
                    "give each an output_dir of its own",
                )
            )
    if problems:
        raise UserError.of(problems)


def in_turn(
    members: Sequence[Member], options: Sequence[str], words: Sequence[str], say: Callable[[str], None]
) -> list[int | None]:
    """Launch one after another, and return the exit code of each; None of those that a stop has kept from starting.

    Args:
        options: of `sft launch`, the same for each.
        words: overrides of the run files, the same for each.
    """
    codes: list[int | None] = [None] * len(members)
    signals = [name for member in members for name in member.loaded.config.launch.stop_signals]
    with StopRequests(signals) as stop:
        for number, member in enumerate(members):
            if stop.first is not None:
                break
            say(f"--- {number + 1} of {len(members)}: {member.path}")
            code = _launch([str(member.path), *options, *words], stop)
            if stop.first is not None and code in UNBEGUN:
                code = int(ExitCode.STOPPED)
            codes[number] = code
            if code:
                say(f"{member.path} ended with exit code {code}")
            if code == ExitCode.STOPPED:
                break
        left = [str(member.path) for member, code in zip(members, codes, strict=True) if code is None]
        if left:
            say(
                f"not started: {', '.join(left)}; the same command starts what is left, and goes on with the rest"
            )
    return codes


def code_of(codes: Sequence[int | None]) -> int:
    """Return the exit code of the whole: the first that is not 0; stopped, where a stop came between two."""
    bad = [code for code in codes if code]
    return bad[0] if bad else int(ExitCode.STOPPED if None in codes else ExitCode.DONE)


def _launch(words: list[str], stop: StopRequests) -> int:
    """Run one `sft launch`, and pass on to it what this process is told. Its stdout is people's here: the table is data."""
    parent = os.getpid()

    def begin() -> None:
        if LINUX:
            bind_to(parent)

    path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "sft.cli.main", "launch", *words],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        # A terminal's Ctrl-C would reach it twice: by itself, and from here.
        start_new_session=True,
        preexec_fn=begin,
    )
    told, at_once = False, False
    while child.poll() is None:
        if stop.first is not None and not told:
            child.send_signal(stop.first)
            told = True
        if stop.at_once and not at_once:
            child.send_signal(signal.SIGINT)
            at_once = True
        time.sleep(POLL_SECONDS)
    return (
        child.returncode if child.returncode >= 0 or child.returncode in UNBEGUN else 128 - child.returncode
    )


def array_of(members: Sequence[Member], submissions: Sequence[Submission]) -> Submission:
    """Make one submission of several, a job array; its script lies with the first of the runs.

    Raises:
        UserError: they differ in what one script says of them all; with the lines that differ, and whose they are.
    """
    for member in members:
        if member.loaded.config.launch.slurm.array:
            raise UserError(
                f"{member.path} is an array by itself, and several run files are one too",
                member.loaded.where("launch.slurm.array"),
                "launch it by itself, or leave launch.slurm.array out",
            )
    said = [_common_lines(submission) for submission in submissions]
    differing = [
        f"{line} ({member.path})"
        for member, lines in zip(members, said, strict=True)
        for line in lines
        if any(line not in others for others in said)
    ]
    if any(lines != said[0] for lines in said):
        told = ", ".join(differing) or "their order"
        raise UserError(
            f"the tasks of an array have one script, and these would need several: {told}",
            ", ".join(str(member.path) for member in members),
            "give them the same, with a flag behind the run files (--time_limit 04:00:00); or submit each by itself",
        )
    first = submissions[0]
    names = {member.loaded.config.launch.slurm.job_name for member in members}
    name = next(iter(names)) if len(names) == 1 else None
    return replace(
        first,
        name=name or "+".join(member.path.stem for member in members)[:LONGEST_NAME],
        members=tuple(member.run for member in members),
    )


def _common_lines(job: Submission) -> list[str]:
    """Return what the script says that does not hang on which of the runs it is."""
    options = sbatch.sbatch_lines(
        job.launch, job.plan, name="", log=Path("-"), requeue=job.launch.slurm.requeue
    )
    lines = [line.removeprefix("#SBATCH ") for line in options]
    other = {"main_process_ip": job.launch.main_process_ip, "array_at_once": job.launch.slurm.array_at_once}
    named = [f"{key} {value}" for key, value in other.items() if value is not None]
    return [*lines, *named, *(line for line in setup_lines(job) if line)]
