"""What the kit asks of a platform that starts the supervisors of a run: submit, state, stop, log.

A platform is one module in `sft/launch/on/`. Its name is what `--on` takes, and it has what `Platform` names; `sft launch`,
`status`, `watch`, `logs` and `cancel` ask for nothing else, so a further one is one file more. What it has to bring about is
the same everywhere: on each of `plan.nodes` machines that see the run directory, the words of `Submission.command()`.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from sft.config.kit import LaunchConfig
from sft.config.loader import LoadedRun
from sft.errors import Problem, UserError
from sft.launch import on
from sft.launch.lock import holder_of
from sft.launch.queue import read_book
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

HERE = "background"
"""The platform that a launch in the foreground is asked through: it is a process as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A run that is about to be handed over: what its script needs besides the run's own settings.

    Attributes:
        sft: the kit's command, by its path: the machines have the environment that the run was submitted from.
        directory: where it was submitted, from which the run file's relative paths count.
        overrides: what is handed to `sft launch` besides the run file: --allow-changed, --max-restarts 3, ...
        chained: how many jobs follow one another; none of them goes back into a queue then.
        members: the runs of a job array of several run files, of which `run` is the first; empty for a single run.
    """

    launch: LaunchConfig
    plan: Plan
    run: RunDirectory
    sft: Path
    directory: Path
    name: str
    title: str
    written_by: str
    overrides: tuple[str, ...] = ()
    chained: int = 1
    members: tuple[RunDirectory, ...] = ()

    def command(
        self, machine_rank: int = 0, address: str | None = None, port: int | None = None
    ) -> list[str]:
        """Return what a machine is to run, in `directory` and after the lines of `launch.setup`.

        Args:
            address: of machine 0, as the others reach it, with the port that they meet at; not for a single machine.
        """
        words = [str(self.sft), "launch", str(self.run.submitted_yaml), *self.overrides]
        if address is None:
            return words
        place = {"machine_rank": machine_rank, "main_process_ip": address, "main_process_port": port}
        return [*words, *(word for key, value in place.items() for word in (f"--{key}", str(value)))]


@dataclass(frozen=True, slots=True)
class JobState:
    """What a platform says of a job.

    Attributes:
        phase: whether it waits, runs, or does not come back by itself.
        state: the platform's own word: PENDING, RUNNING, ...; "GONE" where it knows the job no more.
        reason: why it waits, or why it ended, where that is said.
        nodes: the machines that it runs on, as the platform writes them: node[1-2].
        begin: when it starts or is expected to, in seconds since the epoch.
        end: when its time is over.
        restarts: how often it went back into the queue.
        exit_code: of its script, once it has ended.
    """

    job: str
    phase: Literal["waiting", "running", "over"]
    state: str
    reason: str = ""
    nodes: str = ""
    begin: float | None = None
    end: float | None = None
    restarts: int = 0
    exit_code: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether it will run no more."""
        return self.phase == "over"

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun, or is to begin again."""
        return self.phase == "waiting"


class Platform(Protocol):
    """A module of `sft/launch/on/`.

    Attributes:
        SCRIPT: the name of the script, in `_sft/`.
        IS_ELSEWHERE: the run is planned for the machines that it asks for, not for this one.
        IS_ATTENDED: `sft launch` stays until the run is over, and ends as it does: the job does not outlive its session.
    """

    SCRIPT: str
    IS_ELSEWHERE: bool
    IS_ATTENDED: bool

    def problems(self, loaded: LoadedRun, plan: Plan) -> Iterator[Problem]:
        """Tell what of the run file this platform cannot do."""

    def script(self, submission: Submission) -> str:
        """Return the text that starts the run there, for `--dry-run` and for people. Pure."""

    def submit(self, submission: Submission, script: Path) -> list[str]:
        """Hand the script over, and return its job, or as many as are chained. Raises UserError where it is refused."""

    def state(self, run: RunDirectory, job: str) -> JobState:
        """Ask what has become of a job. Raises UserError where nobody answers."""

    def stop(self, run: RunDirectory, job: JobState, *, now: bool) -> str:
        """Have a job that is not over stop in order, or at once, and say so. Raises UserError where it cannot be reached."""

    def log(self, run: RunDirectory, job: str) -> Path:
        """Return the file that the job itself prints to."""


def platform(name: str) -> Platform:
    """Return a platform by its name.

    Raises:
        UserError: there is none of that name; a newer kit may have submitted the run.
    """
    if name not in on.names():
        raise UserError(f"there is no platform {name}", "--on", f"choose one of {', '.join(on.names())}")
    return cast(Platform, importlib.import_module(f"{on.__name__}.{name}"))


def job_states(run: RunDirectory) -> tuple[Platform, list[JobState]]:
    """Ask what has become of the newest submission of a run, each job of it; else of the launch that holds the run.

    Returns:
        The platform to turn to, and the states; none where nothing was submitted and nothing runs.

    Raises:
        UserError: the platform does not answer.
    """
    book = read_book(run)
    asked = platform(book.platform)
    states = [asked.state(run, job) for job in book.chain or book.jobs[-1:]]
    holder = holder_of(run)
    # A node that was lost leaves its name in the lock: of a submitted run that says nothing.
    is_known = holder is not None and (not states or holder.get("host") == socket.gethostname())
    if holder is None or not is_known or not all(state.is_over for state in states):
        return asked, states
    asked = platform(HERE)
    return asked, [asked.state(run, f"{holder.get('pid')}@{holder.get('host')}")]


if TYPE_CHECKING:
    from sft.launch.on import background, cml, slurm, ssh

    PLATFORMS: tuple[Platform, ...] = (background, slurm, ssh, cml)
