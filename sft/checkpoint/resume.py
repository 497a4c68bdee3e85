"""Choose the checkpoint that a run continues from, and hold the run to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sft.checkpoint.changes import changes, exact_settings
from sft.checkpoint.find import Found, complete, directories, newest, set_aside
from sft.checkpoint.manifest import NAME, Manifest, read_manifest, verify
from sft.checkpoint.needed import WITHOUT, missing
from sft.config.kit import Strategy
from sft.config.run import RunConfig
from sft.errors import ExitCode, UserError
from sft.rundir import RunDirectory

VARIABLE = "SFT_RESUME"
"""Hands the ranks what the launcher chose: a directory, or nothing for a start from the beginning."""
UNSHARDED = frozenset({Strategy.SINGLE, Strategy.DDP})
"""Strategies under which every rank holds the whole optimizer, so that they read each other's checkpoints."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a run continues.

    Attributes:
        manifest: None for a checkpoint that the kit did not write, of which nothing can be verified.
    """

    path: Path
    step: int
    manifest: Manifest | None

    def told(self) -> str:
        """Say from where, and what was verified."""
        if self.manifest is None:
            return f"continuing from step {self.step}: {self.path}, which has no {NAME}, so nothing of it is verified"
        files, size = len(self.manifest.files), self.manifest.bytes / 2**20
        return (
            f"continuing from step {self.step}: {self.path.name}, {files} files, {size:,.1f} MiB, each with the hash"
            " that it was written with"
        )


@dataclass(frozen=True, slots=True)
class Launch:
    """What a launch is, as far as a checkpoint must fit it."""

    strategy: Strategy
    world_size: int
    rows_per_step: int
    data: str | None


def choose(config: RunConfig, say: Say) -> Resume | None:
    """Return where `sft launch` continues: the checkpoint that the run file names, else the newest that is there.

    To be called where no rank of the run is alive: what is torn is set aside.

    Raises:
        UserError: what the run file names is not there or not whole; or it asks for a start from the beginning
            where there is something to continue.
    """
    run, asked = config.run, config.training.resume_from_checkpoint
    if isinstance(asked, str) and asked.lower() not in ("true", "false"):
        return named(Path(asked))
    with _readable(run):
        found = newest(run, say)
    if str(asked).lower() == "false" and found is not None:
        raise UserError(
            f"{run.output_dir} holds {found.path.name}, and the run is not to continue from it",
            where="resume_from_checkpoint",
            fix="start with --fresh, which moves it aside, or set another output_dir",
        )
    return _chosen(found, config, asked)


def found_by_rank(config: RunConfig) -> Resume | None:
    """Return where a rank continues: what the launcher chose or, started by hand, what the run file asks for."""
    if VARIABLE in os.environ:
        place = os.environ[VARIABLE]
        return named(Path(place), verified=True) if place else None
    asked = config.training.resume_from_checkpoint
    if asked is None or str(asked).lower() == "false":
        return None
    if str(asked).lower() != "true":
        return named(Path(str(asked)))
    there = complete(config.run)
    return _chosen(there[-1] if there else None, config, asked)


def _chosen(found: Found | None, config: RunConfig, asked: object) -> Resume | None:
    if found is not None:
        return Resume(found.path, found.manifest.step, found.manifest)
    if str(asked).lower() == "true":
        raise UserError(
            f"there is no complete checkpoint in {config.run.output_dir}",
            where="resume_from_checkpoint",
            fix="name one, or leave it out: `sft launch` continues what is there, and else starts",
        )
    return None


def named(path: Path, *, verified: bool = False) -> Resume:
    """Return a checkpoint by its directory.

    Args:
        verified: its files have been held to its manifest already.

    Raises:
        UserError: it is none, or not whole.
    """
    if not (path / "trainer_state.json").is_file():
        raise UserError(
            f"{path} is no checkpoint of a trainer",
            where="resume_from_checkpoint",
            fix="name a checkpoint-<step> directory, which holds trainer_state.json",
        )
    if not (path / NAME).exists():
        return Resume(path, _step_in(path), None)
    try:
        manifest = read_manifest(path)
        if not verified:
            verify(path, manifest)
    except ValueError as problem:
        raise UserError(
            f"{path} is not whole: {problem}", where="resume_from_checkpoint", fix="name another checkpoint"
        ) from None
    return Resume(path, manifest.step, manifest)


def _step_in(path: Path) -> int:
    try:
        return int(json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path / 'trainer_state.json'} is torn",
            where="resume_from_checkpoint",
            fix="name another checkpoint",
        ) from None


def check(resume: Resume, config: RunConfig, launch: Launch, *, allow_changed: bool) -> list[str]:
    """Hold a launch to the checkpoint that it continues from, and return what to tell of it.

    Raises:
        UserError: the checkpoint lacks what an exact resume needs, or the run is another one.
    """
    files = _files(resume)
    manifest = resume.manifest
    lacking = missing(files, launch.strategy, manifest.world_size if manifest else launch.world_size)
    _refuse_missing(resume, lacking, config)
    notes = [f"continuing without {what}: {lacking[what]} is missing" for what in lacking if what in WITHOUT]
    if manifest is None:
        return notes
    was = Strategy(manifest.strategy)
    if was != launch.strategy and not {was, launch.strategy} <= UNSHARDED:
        raise UserError(
            f"{resume.path.name} was saved under {was}, and the run is launched under {launch.strategy}: the"
            " optimizer's state of the one is not read by the other, and would start anew",
            where="strategy",
            fix=f"launch with strategy: {was}, or start anew with --fresh",
        )
    if manifest.rows_per_step != launch.rows_per_step:
        raise UserError(
            f"{resume.path.name} was trained with {manifest.rows_per_step} rows a step, and the run has"
            f" {launch.rows_per_step}: rows would be seen twice or never",
            where="total_train_batch_size",
            fix=f"set total_train_batch_size: {manifest.rows_per_step}, or start anew with --fresh",
        )
    if (
        manifest.world_size != launch.world_size
        and config.training.train_sampling_strategy == "group_by_length"
    ):
        raise UserError(
            f"{resume.path.name} was saved by {manifest.world_size} processes, and {launch.world_size} are started:"
            " rows are grouped by length within what a process sees, so that some would be seen twice or never",
            where="launch",
            fix=f"launch {manifest.world_size} processes, or start anew with --fresh",
        )
    same_data = None if None in (manifest.data, launch.data) else manifest.data == launch.data
    changed = changes(manifest.settings, exact_settings(config), same_data=same_data)
    if changed and not allow_changed:
        raise UserError(
            f"the run file is not the one that {resume.path.name} was trained with: " + "; ".join(changed),
            where=str(resume.path / NAME),
            fix="take the change back, start anew with --fresh, or go on all the same with --allow-changed",
        )
    return notes + [f"changed since {resume.path.name}: {change}" for change in changed]


def _files(resume: Resume) -> list[str]:
    if resume.manifest is not None:
        return list(resume.manifest.files)
    return [path.relative_to(resume.path).as_posix() for path in resume.path.rglob("*") if path.is_file()]


def _refuse_missing(resume: Resume, lacking: Mapping[str, str], config: RunConfig) -> None:
    allowed = {*config.kit.resume_without} | ({"data"} if config.training.ignore_data_skip else set())
    refused = [what for what in lacking if what not in allowed]
    if refused:
        by_name = [what for what in refused if what in WITHOUT]
        fix = "name another checkpoint"
        if by_name == refused:
            fix += f", or set resume_without: [{', '.join(by_name)}] to go on with those anew"
        raise UserError(
            f"{resume.path} lacks " + "; ".join(f"{what} ({lacking[what]})" for what in refused),
            where="resume_from_checkpoint",
            fix=fix,
        )


def start_afresh(run: RunDirectory, say: Say) -> None:
    """Move the checkpoints of an output directory to where nothing looks for them. Nothing is deleted."""
    with _readable(run):
        for path in directories(run.output_dir):
            say(f"moved {path.name} to {set_aside(run, path)}")


@contextmanager
def _readable(run: RunDirectory) -> Iterator[None]:
    """Turn an error of the disk into a problem that the user can mend."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the checkpoints cannot be looked through: {error.strerror or error}",
            where=str(error.filename or run.output_dir),
            fix="make the directory readable and writable",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
