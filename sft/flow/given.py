"""The run file as a flow is given it: a text, the keys that `--set` changes, and a directory to run in."""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from sft.config.fields import takes
from sft.config.loader import LoadedRun, load_run
from sft.errors import ExitCode, UserError
from sft.files import write_whole
from sft.launch.lock import holder_of
from sft.rundir import RunDirectory

PLACE = "sft-flow"
"""Below Metaflow's directory for what is temporary (METAFLOW_TEMPDIR): a directory for each run of the flow."""
HOLDER_SECONDS = 30.0
"""How long what a killed attempt has started may take to follow it."""


@dataclass(frozen=True, slots=True)
class Given:
    """A run file in the directory of a flow's run.

    Attributes:
        place: the directory of this run of the flow, the same for every attempt at a step.
        words: `--key=value`, as `sft launch` takes them after the run file.
    """

    place: Path
    run_file: Path
    words: tuple[str, ...]
    loaded: LoadedRun

    @property
    def run(self) -> RunDirectory:
        """Where the flow has it train, whatever output_dir says: on the machine of the step, and empty at its start."""
        return RunDirectory(self.place / self.loaded.config.run.output_dir.name)


def place_of(temporary: str | None, run_id: str) -> Path:
    """Return the directory of one run of the flow."""
    return Path(temporary or ".").resolve() / PLACE / run_id


def read(text: str, changes: str, place: Path) -> Given:
    """Read the run file with its changes. It is written into `place`, from where `sft launch` reads it.

    Raises:
        UserError: every problem of both, with its line.
    """
    run_file = place / "run.yaml"
    try:
        write_whole(run_file, text)
    except OSError as error:
        raise UserError(
            f"the directory of the flow cannot be written: {error.strerror or error}",
            where=str(place),
            fix="set METAFLOW_TEMPDIR to a directory that is yours and has room",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    words = words_of(changes)
    loaded = load_run(run_file, words)
    launch = loaded.config.launch
    if launch.nodes != 1:
        raise UserError(
            f"a step of a flow trains on one machine, not on {launch.nodes}",
            where=loaded.where("launch.nodes"),
            fix="set launch.nodes: 1 and give the step more GPUs, or use sft launch RUN.yaml --on slurm",
        )
    return Given(place, run_file, words, loaded)


def words_of(changes: str) -> tuple[str, ...]:
    """Turn `max_steps=4 learning_rate=2e-4` into flags.

    Raises:
        UserError: a part of it is no key=value.
    """
    fix = 'write --set "max_steps=4 learning_rate=2e-4", with quotes around a value that holds blanks'
    try:
        parts = shlex.split(changes)
    except ValueError as error:
        raise UserError(f"--set cannot be read: {error}", "--set", fix) from None
    words: list[str] = []
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key or key.startswith("-"):
            raise UserError(f"--set takes key=value, not {part!r}", "--set", fix)
        # A list of values is several words after its flag.
        words += [f"--{key}", *value.split()] if takes(key, list) else [f"--{part}"]
    return tuple(words)


def empty(place: Path) -> None:
    """Remove what an earlier attempt at a step has left here, once nothing of it is alive.

    Raises:
        UserError: something of it is.
    """
    due = time.monotonic() + HOLDER_SECONDS
    # The processes of a killed step are killed with it, but it takes the kernel a moment.
    while holders := [held for path in place.glob("*/_sft/lock") if (held := holder_of(_run_of(path)))]:
        if time.monotonic() > due:
            raise UserError(
                f"an earlier attempt still runs: process {holders[0].get('pid')} on {holders[0].get('host')}",
                where=str(place),
                fix="stop it, then resume the flow",
                exit_code=ExitCode.ENVIRONMENT,
            )
        time.sleep(0.2)
    shutil.rmtree(place, ignore_errors=True)


def _run_of(lock: Path) -> RunDirectory:
    return RunDirectory(lock.parents[1])
