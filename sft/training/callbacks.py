"""What the trainer tells while it trains."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft.errors import ExitCode, UserError
from sft.hub.background import start_delivery
from sft.hub.outbox import request_push
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from sft.training.agreement import largest
from sft.training.reporting import Reporter


def peak_memory_bytes(device: torch.device) -> float:
    """Return the most memory that this process held: of the GPU where there is one, else resident."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


class EventsCallback(TrainerCallback):  # type: ignore[misc]
    """Turns what the trainer logs into events. Its collectives run on every rank, its writing on rank 0."""

    def __init__(self, reporter: Reporter, run: RunDirectory) -> None:
        self._reporter = reporter
        self._run = run
        self._trainer: Any = None
        self._began = (0.0, 0)
        self._last = (0.0, 0.0)
        self._seen = (0, 0)
        self._evaluation_began: float | None = None

    def watch(self, trainer: Any) -> None:
        """Give it the trainer, which knows the trained tokens."""
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clocks."""
        now = time.monotonic()
        self._began = (now, state.global_step)
        self._last = (now, 0.0)
        self._reporter.phase("train")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Write a `log` or an `evaluate` event.

        Raises:
            UserError: the loss is no number any more; going on from here trains nothing.
        """
        logs = dict(logs or {})
        if any(key.startswith("eval_") for key in logs):
            self._reporter.write("evaluate", step=state.global_step, **logs)
            self._reporter.phase("train")
            return
        now = time.monotonic()
        peak = largest(peak_memory_bytes(args.device), args.device)
        tokens = float(self._trainer.trained_tokens)
        seconds, before = now - self._last[0], self._last[1]
        extra: dict[str, Any] = {"trained_tokens": round(tokens), "peak_memory_bytes": round(peak)}
        if "loss" in logs:
            if seconds > 0 and tokens > before:
                extra["trained_tokens_per_second"] = round((tokens - before) / seconds, 1)
            done = state.global_step - self._began[1]
            if done > 0:
                extra["seconds_left"] = round(
                    (now - self._began[0]) / done * (state.max_steps - state.global_step), 1
                )
            self._last = (now, tokens)
        self._reporter.write("log", step=state.global_step, max_steps=state.max_steps, **logs, **extra)
        self._refuse_lost_loss(args, state, logs)

    def _refuse_lost_loss(self, args: TrainingArguments, state: TrainerState, logs: dict[str, float]) -> None:
        """A loss that is no number leaves weights that are none; fp16 skips a step whose gradients overflow."""
        trainer, device = self._trainer, args.device
        steps, self._seen = trainer.micro_batches - self._seen[0], (trainer.micro_batches, self._seen[1])
        lost = round(largest(float(trainer.lost_micro_batches), device))
        new, self._seen = lost - self._seen[1], (trainer.micro_batches, lost)
        bad = next((key for key in ("loss", "grad_norm") if not math.isfinite(logs.get(key, 0.0))), None)
        if args.fp16 and bad != "loss" and new < max(steps, 1):
            return
        if bad is not None:
            what = f"{bad} is {logs[bad]} at step {state.global_step}"
        elif new:
            what = f"the loss of {new} of the last {steps} micro-batches is no number, up to step {state.global_step}"
        else:
            return
        raise UserError(
            what,
            where=str(self._run.events_jsonl),
            fix="lower learning_rate, set max_grad_norm, or train in bf16; restarting would fail again",
            exit_code=ExitCode.TRAINING_FAILED,
        )

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say that an evaluation goes on."""
        if self._evaluation_began is None:
            self._evaluation_began = time.monotonic()
            self._reporter.phase("evaluate")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Do not count the evaluation as training time."""
        now = time.monotonic()
        if self._evaluation_began is not None:
            self._began = (self._began[0] + now - self._evaluation_began, self._began[1])
            self._evaluation_began = None
        self._last = (now, float(self._trainer.trained_tokens))


def push_saved(run: RunDirectory, settings: HubSettings, reporter: Reporter) -> Callable[[int, Path], None]:
    """Return what journals a push of each complete checkpoint and starts the process that delivers it.

    Training waits for nothing. Rank 0 calls it.
    """

    def push(step: int, path: Path) -> None:
        try:
            if request_push(run, settings, "save", step):
                start_delivery(run)
        except (OSError, UserError) as error:  # a full disk, or something foreign in the outbox
            reporter.note(f"the save at step {step} is not pushed: {error}")

    return push
