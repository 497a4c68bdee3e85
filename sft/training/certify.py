"""The kill of `sft certify`: a callback that ends its own run as a lost node would."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft.checkpoint.manifest import NAME
from sft.parent import SUPERVISOR_VARIABLE

VARIABLE = "SFT_CERTIFY_KILL"
"""`saved step:killed step`."""


class KillSupervisor(TrainerCallback):  # type: ignore[misc]
    """SIGKILLs the supervisor at a step's end, once the checkpoint before it is complete; everyone dies with it."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Kill at the step that was asked for."""
        saved, killed = os.environ[VARIABLE].split(":")
        if state.global_step < int(killed):
            return
        manifest = Path(str(args.output_dir), f"checkpoint-{saved}", NAME)
        while state.is_world_process_zero and not manifest.exists():
            time.sleep(0.05)
        if state.is_world_process_zero:
            os.kill(int(os.environ[SUPERVISOR_VARIABLE].split()[0]), signal.SIGKILL)
        time.sleep(60)
