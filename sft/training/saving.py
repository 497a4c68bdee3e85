"""Checkpoints of a run under training: the trainer stands still while they are copied, not while they are written.

A save has three parts. The ranks together let transformers save, with its large files caught in memory
(`sft.checkpoint.capture`). Then each rank writes its files in the background, and rank 0 gives the checkpoint its
name (`sft.checkpoint.write`). At the next save, or at the end, the ranks agree how it went.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft.checkpoint.capture import Arena, captured
from sft.checkpoint.keep import rotate
from sft.checkpoint.manifest import Manifest
from sft.checkpoint.write import GivenUpError, Pending, complete, refuse_part, write_part
from sft.errors import ExitCode, UserError
from sft.machine import available_memory_bytes
from sft.training.agreement import any_rank, first_said
from sft.training.rank import Rank
from sft.training.reporting import Reporter
from sft.training.scratch import make_scratch, small_files, without_places

MEMORY_SHARE = 0.8
"""Of what the machine has left, how much a save may take."""
WriteManifest = Callable[[TrainerState], Manifest]


@dataclass
class _Save:
    """One checkpoint on its way to the disk. The thread sets the last six."""

    step: int
    files: list[Pending]
    scratch: Path
    began: float
    standstill_seconds: float = 0.0
    thread: threading.Thread | None = None
    given_up: threading.Event = field(default_factory=threading.Event)
    part_is_over: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None
    path: Path | None = None
    not_rotated: str | None = None
    seconds: float = 0.0


class Saver(TrainerCallback):  # type: ignore[misc]
    """Makes the checkpoints of one rank's run. Its collectives: two a save, and those of transformers' own save.

    Args:
        manifest: makes the manifest, without its files; called on rank 0 at each save.
        limit: `save_total_limit`.
        background: copy and write later, where memory allows; else training waits for the disk.
        on_complete: told the step and the directory on rank 0, once a checkpoint is complete.
    """

    def __init__(
        self,
        rank: Rank,
        reporter: Reporter,
        *,
        manifest: WriteManifest,
        limit: int | None,
        background: bool,
        on_complete: list[Callable[[int, Path], None]],
    ) -> None:
        self._rank, self._reporter, self._run = rank, reporter, rank.run
        self._manifest, self._limit, self._background = manifest, limit, background
        self._on_complete = on_complete
        self._arena = Arena()
        self._copies = False
        self._save: _Save | None = None
        self.last_failed: str | None = None
        """Why the last save failed; None where it did not, or is under way."""
        self.seconds_to_save: float | None = None
        """From the standstill to a complete checkpoint, the last time."""

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._save is not None and self._save.thread is not None and self._save.thread.is_alive()

    # --- one save

    def save(self, trainer: Any, save: Callable[[], None]) -> None:
        """Let transformers save (`save`), and take what it writes. A collective."""
        self.finish(trainer.args)
        self._rank.phase("save")
        self.last_failed = None
        self._arena.reset()
        arguments, state = trainer.args, trainer.state
        current = _Save(state.global_step, [], make_scratch(), time.monotonic())
        staging = self._staging(current)
        folder = current.scratch / staging.name
        if self._rank.is_main:
            shutil.rmtree(staging, ignore_errors=True)
        # Reserved before anything is written: a rank must not find the directory that rank 0 is about to remove.
        any_rank(False, arguments.device)
        own, arguments.output_dir = arguments.output_dir, str(current.scratch)
        self._copies = self._background
        try:
            with captured(
                folder, current.files, self._arena, self._fits(), partial(self._write_now, current)
            ):
                save()
        finally:
            arguments.output_dir = own
            self._copies = False
        state.best_model_checkpoint = self._path_of_best(state)
        if self._rank.is_main:
            without_places(folder / "trainer_state.json")
        current.files += small_files(folder)
        manifest = self._manifest(state) if self._rank.is_main else None
        current.thread = threading.Thread(
            target=self._write, args=(current, manifest), name=f"save-{current.step}", daemon=True
        )
        current.thread.start()
        self._save = current
        current.standstill_seconds = time.monotonic() - current.began
        if not self._background:
            self.finish(trainer.args)
        self._rank.phase("train")

    def host_memory(self, size: int) -> torch.Tensor:
        """Give memory for what is gathered: within a save where its copies lie, so that it is not copied again."""
        return self._arena.take(size) if self._copies else torch.empty(size, dtype=torch.uint8)

    def finish(self, arguments: TrainingArguments) -> None:
        """Wait until the checkpoint that is being written is complete or has failed, and agree which. A collective."""
        current = self._save
        if current is None:
            return
        assert current.thread is not None
        self._rank.phase("save")
        device = arguments.device
        current.part_is_over.wait()
        if any_rank(current.failure is not None, device):
            current.given_up.set()
        current.thread.join()
        failed = any_rank(current.failure is not None, device)
        if failed and self._rank.is_main:
            # Rank 0 has removed it once already, but another may have written on until it heard of it.
            shutil.rmtree(self._staging(current), ignore_errors=True)
        self._save = None
        self.last_failed = first_said(_reason(current.failure)) if failed else None
        self._tell(current)
        self._rank.phase("train")

    # --- in the background

    def _write(self, current: _Save, manifest: Manifest | None) -> None:
        staging = self._staging(current)
        keep_going = lambda: not current.given_up.is_set()  # noqa: E731
        try:
            if current.failure is None:
                write_part(staging, self._rank.index, current.files, keep_going=keep_going)
        except Exception as error:  # torch and safetensors have errors of their own for a full disk
            current.failure = error
            # Where not even this can be written, the others hear of it at the next save.
            with suppress(OSError):
                refuse_part(staging, self._rank.index)
        finally:
            current.part_is_over.set()
            current.files.clear()
            shutil.rmtree(current.scratch, ignore_errors=True)
        try:
            if manifest is not None and current.failure is None:
                path = complete(
                    self._run, staging, manifest, ranks=manifest.world_size, keep_going=keep_going
                )
                current.seconds = time.monotonic() - current.began
                current.path = path
        except Exception as error:
            current.failure = error
        if current.path is not None and manifest is not None:
            try:
                rotate(self._run, self._limit, manifest.best_step)
            except OSError as error:
                current.not_rotated = " ".join(str(error).split())
        if current.failure is not None and self._rank.is_main:
            shutil.rmtree(staging, ignore_errors=True)

    def _write_now(self, current: _Save, file: Pending) -> None:
        """Write a file for which there is no memory while training waits. Raises nothing: see `captured`."""
        path = self._staging(current) / file.name
        if current.failure is None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file.write(path)
            except Exception as error:
                current.failure = error
        current.files.append(Pending(file.name, file.bytes, lambda _: None))

    def _staging(self, current: _Save) -> Path:
        return self._run.staging / f"checkpoint-{current.step}"

    def _fits(self) -> Callable[[int], bool]:
        """Say how much of a save may be held in memory: each rank of this machine takes its share."""
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        left = available_memory_bytes() * MEMORY_SHARE / ranks_here + self._arena.bytes
        left = left if self._background else 0.0

        def fits(size: int) -> bool:
            nonlocal left
            if size > left:
                return False
            left -= size
            return True

        return fits

    # --- what is told

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Tell of a checkpoint as soon as it is complete."""
        current = self._save
        if current is not None and current.path is not None and not self.busy:
            self._tell(current)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say where the best checkpoint lies: the run may have been moved since it was written down."""
        state.best_model_checkpoint = self._path_of_best(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Wait for the last checkpoint before transformers loads the best one, which it does after this log."""
        if "train_loss" in (logs or {}):
            self.finish(args)
            state.best_model_checkpoint = self._path_of_best(state)

    def _path_of_best(self, state: TrainerState) -> str | None:
        path = self._run.output_dir / f"checkpoint-{state.best_global_step}"
        return str(path) if path.is_dir() else None

    def require_saved(self) -> None:
        """Refuse to part as if nothing were lost where the last checkpoint could not be saved.

        Raises:
            UserError: it could not.
        """
        if self.last_failed is not None:
            raise UserError(
                f"the last checkpoint could not be saved: {self.last_failed}",
                where=str(self._run.output_dir),
                fix="make room or mend the disk; the run goes on from the checkpoint before it",
                exit_code=ExitCode.ENVIRONMENT,
            )

    def _tell(self, current: _Save) -> None:
        if current.step < 0:
            return
        if self.last_failed is not None:
            self._reporter.note(
                f"checkpoint-{current.step} could not be saved: {self.last_failed}. What was written of it is removed;"
                " training goes on, and the next save tries again"
            )
        elif self._rank.is_main and current.path is not None:
            self.seconds_to_save = current.seconds
            self._reporter.write(
                "save",
                step=current.step,
                path=str(current.path),
                seconds=round(current.seconds, 3),
                standstill_seconds=round(current.standstill_seconds, 3),
            )
            if current.not_rotated is not None:
                self._reporter.note(f"save_total_limit could not delete a checkpoint: {current.not_rotated}")
            for told in self._on_complete:
                told(current.step, current.path)
        current.step = -1


def _reason(failure: Exception | None) -> str | None:
    """Say why a save failed on this rank; None where another one's failure ended it."""
    if failure is None or isinstance(failure, GivenUpError):
        return None
    return " ".join(str(failure).split()) or type(failure).__name__
