"""Tells the supervisor that a rank comes further."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft.training.rank import Rank


class HeartbeatCallback(TrainerCallback):  # type: ignore[misc]
    """Counts steps, micro-batches and evaluated batches as progress, on every rank. First of the callbacks."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say where the run begins."""
        self._rank.step(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count a step."""
        self._rank.step(state.global_step)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count a micro-batch."""
        self._rank.step()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count a batch of an evaluation."""
        self._rank.step()
