"""What a pickle would run when it is loaded: looked at without loading it. Below the torch line.

DeepSpeed loads its shards as pickles that may name any function. Those of the run's own directory are its own; those
of a checkpoint from elsewhere are held to what DeepSpeed itself writes.
"""

from __future__ import annotations

from pathlib import Path

import torch.serialization

from sft.errors import UserError

WRITTEN_BY_DEEPSPEED = frozenset({
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "builtins.set",
})  # fmt: skip


def refuse_foreign_code(checkpoint: Path) -> None:
    """Refuse a checkpoint from elsewhere whose DeepSpeed shards name anything but data.

    Raises:
        UserError: a shard would run code of somebody's, or cannot be looked into.
    """
    for path in sorted(checkpoint.glob("global_step*/*.pt")):
        try:
            named = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        except Exception:  # it raises what the unpickler and the zip reader raise
            named = ["something that cannot be looked into"]
        foreign = set(named) - WRITTEN_BY_DEEPSPEED
        if foreign:
            raise UserError(
                f"{path.name} would run code when it is loaded: {', '.join(sorted(foreign))}",
                where=str(path),
                fix="continue only from checkpoints of people you trust: copy it into output_dir if you do",
            )
