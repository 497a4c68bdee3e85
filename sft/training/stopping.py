"""When the ranks stop, and that they do it together: at a step's end, or in the middle of an evaluation.

A rank hears of a stop by a signal, by the stop file, or from its clock. At each step's end one collective tells all
of them what any has heard, and what the slowest needs; from the same numbers each comes to the same decision.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft.config.run import RunConfig
from sft.deadline import Deadline
from sft.training.agreement import largest_of
from sft.training.lead_time import Clock, SaveTimes, StepTimes, guessed_save_seconds, lead_seconds
from sft.training.promise import promised_steps
from sft.training.rank import Rank
from sft.training.reporting import Reporter

FILE_SECONDS = 1.0
"""How often each rank looks for the stop file: a look is a request to the file system."""
EVALUATION_SECONDS = 2.0
"""How often the ranks agree while they evaluate."""
NEVER = 1e12
"""Seconds left where there is no deadline; infinity is no number for every backend."""
# What a rank has heard, as a number that a maximum can be taken of.
NOTHING, DEADLINE, STOP_FILE, SIGNAL = 0, 1, 2, 16


class StopEvaluation(Exception):
    """All ranks leave the evaluation that they are in, to stop."""


class StopCallback(TrainerCallback):  # type: ignore[misc]
    """At the end of each step the ranks agree whether to stop; then they save one checkpoint and leave.

    Attributes:
        reason: why all ranks stop, once they have agreed on it.
    """

    def __init__(
        self, rank: Rank, reporter: Reporter, config: RunConfig, clock: Clock = time.monotonic
    ) -> None:
        self._rank, self._reporter, self._config, self._clock = rank, reporter, config, clock
        self._deadline = Deadline.handed()
        self.reason: str | None = None
        self._trainer: Any = None
        self._steps = StepTimes(clock)
        self._saves = SaveTimes(lambda: None, guessed_save_seconds(0), clock)
        self._saved_step = -1
        self._looked, self._told_by_file = -FILE_SECONDS, NOTHING
        self._begin_evaluation()

    @property
    def stopped(self) -> bool:
        """Whether the ranks have agreed to stop."""
        return self.reason is not None

    def watch(self, trainer: Any, seconds_to_save: Callable[[], float | None]) -> None:
        """Give it the trainer, and what knows how long the last save took."""
        self._trainer = trainer
        trainable = sum(
            getattr(weight, "ds_numel", weight.numel())
            for weight in trainer.model.parameters()
            if weight.requires_grad
        )
        self._saves = SaveTimes(seconds_to_save, guessed_save_seconds(trainable), self._clock)

    # --- the agreement

    def agree(
        self, device: torch.device, *, step: bool = False, saves: int = 0, deadline: bool = True
    ) -> bool:
        """Agree whether to stop now. A collective: every rank must call it, with the same arguments.

        Args:
            step: whether a step comes before the ranks agree the next time.
            saves: how many saves come before they have left.
            deadline: whether to mind it.
        """
        heard, longest, batch, saving, less = largest_of(
            [
                self._heard(),
                self._steps.longest if step else 0.0,
                self._batch_seconds(),
                # Rank 0 alone knows when a checkpoint is complete.
                self._saves.seconds(saves) if self._rank.is_main else 0.0,
                -self._seconds_left(),
            ],
            device,
        )
        self._longest_batch = batch
        leave = self._config.launch.leave_seconds
        ahead = longest if step else max(batch, EVALUATION_SECONDS)
        needed = lead_seconds(step=ahead, saves=saving, leave=leave)
        if heard == NOTHING and deadline and -less < needed:
            heard = DEADLINE
        if heard != NOTHING:
            self.reason = self._name(round(heard))
        return self.stopped

    def _heard(self) -> int:
        """Return what this rank has heard."""
        if self._rank.stop_signal is not None:
            return SIGNAL + self._rank.stop_signal
        now = self._clock()
        if self._told_by_file == NOTHING and now >= self._looked + FILE_SECONDS:
            self._looked = now
            self._told_by_file = self._read_file()
        return self._told_by_file

    def _read_file(self) -> int:
        """Return what the stop file says: the supervisor writes the name of its signal, a user nothing."""
        try:
            said = self._rank.run.stop_file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return NOTHING
        return SIGNAL + signal.Signals[said] if said in signal.Signals.__members__ else STOP_FILE

    def _name(self, heard: int) -> str:
        if heard == DEADLINE:
            return self._deadline.source if self._deadline else "the deadline of another node"
        return "stop file" if heard == STOP_FILE else signal.Signals(heard - SIGNAL).name

    def _seconds_left(self) -> float:
        return NEVER if self._deadline is None else self._deadline.due - self._clock()

    # --- steps

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **seen: Any
    ) -> None:
        """Say what can be lost. Evaluate first where a stop has cut short the evaluation of the step it stopped at."""
        self._promise(args, state, seen.get("train_dataloader"))
        # Not for the deadline: a run that is continued again and again must come further each time.
        if self.agree(args.device, deadline=False):
            control.should_training_stop = True
        elif _evaluation_is_due(args, state):
            self._trainer.evaluate_anew()
        self._steps.begin()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Agree; after the last step there is nothing to stop."""
        self._steps.end()
        if state.global_step >= state.max_steps:
            return control
        if self.agree(args.device, step=True, saves=2 if control.should_save else 1):
            self._reporter.note(f"stopping after step {state.global_step}: {self.reason}")
            # An evaluation at the epoch's end draws random numbers, so the save that is continued from comes after.
            waits = args.eval_strategy.value == "epoch" and _is_whole(state.epoch)
            control.should_save = not waits
            control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """transformers comes here after a stop within an epoch as well: that is not its end. Save once."""
        if self.stopped:
            is_end = _is_whole(state.epoch)
            control.should_save = self._saved_step != state.global_step
            control.should_evaluate = control.should_evaluate and is_end
            control.should_log = control.should_log and is_end
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Keep saves out of the steps' times. Once stopped, do not read the best model in, only to leave."""
        self._saved_step = state.global_step
        self._saves.begin()
        self._steps.begin()
        if self.stopped:
            args.load_best_model_at_end = False

    # --- evaluations

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Agree every few seconds.

        Raises:
            StopEvaluation: on every rank, after the same batch.
        """
        self._batches += 1
        if self._batches < self._next_batch and not self.stopped:
            return
        if self.stopped or self.agree(args.device, saves=1):
            self._reporter.note(
                f"leaving the evaluation of step {state.global_step} ({self.reason}); it is done anew when the run"
                " continues"
            )
            raise StopEvaluation
        # From numbers that all ranks share: they must agree after the same batches.
        ahead = int(EVALUATION_SECONDS / self._longest_batch) if self._longest_batch > 0 else 1
        self._next_batch, self._agreed_at = self._batches + max(1, ahead), (self._batches, self._clock())

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Keep evaluations out of the steps' times."""
        self._begin_evaluation()
        self._steps.begin()

    def _begin_evaluation(self) -> None:
        self._batches, self._next_batch, self._longest_batch = 0, 1, 0.0
        self._agreed_at: tuple[int, float] | None = None

    def _batch_seconds(self) -> float:
        """Return the seconds that a batch of the evaluation took since the ranks last agreed; 0 at its first."""
        if self._agreed_at is None:
            return 0.0
        batches, at = self._agreed_at
        return (self._clock() - at) / max(1, self._batches - batches)

    # --- what is told

    def _promise(self, args: TrainingArguments, state: TrainerState, batches: Any) -> None:
        """Say when the run stops by itself, and what a kill can cost."""
        try:
            per_epoch = -(-len(batches) // args.gradient_accumulation_steps)
        except TypeError:  # a stream has no length
            per_epoch = None
        promise = promised_steps(
            args.save_strategy.value,
            save_steps=int(state.save_steps or 0),
            steps_per_epoch=per_epoch,
            max_steps=state.max_steps,
            background=self._config.kit.background_save,
        )
        by = ""
        if self._deadline is not None:
            by = f"stops by itself before {self._deadline.clock} ({self._deadline.source}); "
        warning = "warning: " if promise.steps is None else ""
        self._reporter.note(f"{warning}{by}{promise.text}")


def _is_whole(epoch: float | None) -> bool:
    """Whether an epoch is at its end: transformers counts `epoch + (batch + 1) / batches`."""
    return epoch is not None and float(epoch).is_integer()


def _evaluation_is_due(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether the step that a run continues from was to be evaluated, and was not: a stop left it out."""
    step, epoch = state.global_step, state.epoch or 0.0
    if step == 0 or any(
        entry.get("step") == step and any(key.startswith("eval_") for key in entry)
        for entry in state.log_history
    ):
        return False
    match args.eval_strategy.value:
        case "steps":
            at_step = step % state.eval_steps == 0 or step >= state.max_steps
            return at_step and args.eval_delay <= step
        case "epoch":
            return _is_whole(epoch) and args.eval_delay <= epoch
    return False
