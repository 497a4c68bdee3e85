"""Settle what the libraries would otherwise decide in silence, before any of them starts."""

from __future__ import annotations

import logging
import os
import warnings

from sft.training.agreement import World


def settle(world: World) -> None:
    """Prepare the process for its arrangement.

    On CPU, DeepSpeed would compile its shared-memory collectives at first use (35 s, and it needs a
    compiler); gloo serves without.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # TRL's default gradient_checkpointing is spelt activation_checkpointing since transformers 5.20.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    if world.device == "cpu" and os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
