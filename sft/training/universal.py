"""Mends what DeepSpeed 0.19 does when it reads its universal format under ZeRO-3."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class SeparateSteps(TrainerCallback):  # type: ignore[misc]
    """Gives each parameter group a step count of its own.

    DeepSpeed hands all of them one tensor, which each then counts up in place: with a group for the weights and
    one for the norms every step would count twice in Adam's bias correction
    (`load_hp_checkpoint_state_from_checkpoint_dir_stage3`).
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Copy the counts, once the checkpoint has been read."""
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        for kept in optimizer.state.values():
            if isinstance(kept.get("step"), torch.Tensor):
                kept["step"] = kept["step"].clone()
