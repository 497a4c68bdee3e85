"""What runs within the ranks of benchmarks/topics.py: a callback whose import has the first steps' tensors counted.

A dispatch mode sees every operator, which takes time: so it is off before a step is timed. Each rank writes the most that was
alive in the last step that was counted, in bytes, into the directory that SFT_BENCHMARK_LIVE names.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from sft.training.trainer import CountingTrainer

sys.path.append(str(Path(__file__).resolve().parent.parent))
from tests.plan.live_bytes import LiveBytes

COUNTED_STEPS = 2
LIVE = LiveBytes(resizes=int(os.environ.get("WORLD_SIZE", "1")) > 1)


class Count(TrainerCallback):
    """Ends the counting."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget the first step, which makes what later ones find: the optimizer's state, projections; end with the last."""
        if state.global_step < COUNTED_STEPS:
            LIVE.reset_peak()
        elif state.global_step == COUNTED_STEPS:
            LIVE.__exit__(None, None, None)
            place = Path(os.environ["SFT_BENCHMARK_LIVE"], f"{os.environ.get('RANK', '0')}.json")
            place.write_text(json.dumps(LIVE.peak))


def counted(train: Any) -> Any:
    """Wrap the trainer's own `continue_from`: what is alive before it is counted too."""

    def continue_from(self: Any, resume: Any) -> None:
        for thing in gc.get_objects():
            if issubclass(type(thing), torch.Tensor):
                LIVE.show(thing, "before")
        LIVE.__enter__()
        train(self, resume)

    return continue_from


CountingTrainer.continue_from = counted(CountingTrainer.continue_from)
