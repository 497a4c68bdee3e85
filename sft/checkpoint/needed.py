"""What a resume needs of a checkpoint: transformers goes on without what is missing, and says nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from sft.config.kit import Strategy

OPTIMIZER, SCHEDULE, RNG, DATA, WEIGHTS = "optimizer", "schedule", "rng", "data", "weights"
WITHOUT = (OPTIMIZER, SCHEDULE, RNG, DATA)
"""What a run may be asked, by name, to go on without."""
WEIGHT_FILES = re.compile(r"^(model|adapter_model)[^/]*\.(safetensors|bin)$|^pytorch_model[^/]*\.bin$")


def missing(files: Collection[str], strategy: Strategy, world_size: int) -> Mapping[str, str]:
    """Name what a checkpoint lacks, each with the file that would hold it."""
    lacking: dict[str, str] = {}
    if "trainer_state.json" not in files:
        lacking[DATA] = "trainer_state.json"
    if not any(WEIGHT_FILES.match(name) for name in files):
        lacking[WEIGHTS] = "model.safetensors or adapter_model.safetensors"
    if strategy.is_deepspeed:
        shards = [name for name in files if name.endswith("_optim_states.pt")]
        if "latest" not in files or len(shards) < world_size:
            lacking[OPTIMIZER] = f"global_step*/*_optim_states.pt of {world_size} ranks"
    elif not any(re.match(r"optimizer(\.pt|\.bin|_\d+/)", name) for name in files):
        lacking[OPTIMIZER] = "optimizer.bin" if strategy.is_fsdp else "optimizer.pt"
    if "scheduler.pt" not in files:
        lacking[SCHEDULE] = "scheduler.pt"
    names = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    if absent := [name for name in names if name not in files]:
        lacking[RNG] = ", ".join(absent)
    return lacking
