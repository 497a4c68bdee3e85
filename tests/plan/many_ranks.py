"""Rank 0 of many under FSDP2, in one process: what it holds, with collectives that send nothing. Run as a script.

python -m tests.plan.many_ranks MODEL RANKS LENGTH CHECKPOINTING    prints the most bytes of two steps
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from tests.plan.live_bytes import LiveBytes


def sharded(directory: Path, ranks: int, checkpointing: bool) -> Any:
    """Load a model as accelerate lays it over the ranks: each layer by itself, and what is left together."""
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    mesh = init_device_mesh("cpu", (ranks,))
    model = AutoModelForCausalLM.from_pretrained(directory)
    if checkpointing:
        model.gradient_checkpointing_enable()
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model.train()


def peak_of(directory: Path, ranks: int, length: int, checkpointing: bool) -> int:
    """Train two steps of one row, and return the most bytes of the second."""
    model = sharded(directory, ranks, checkpointing)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    live = LiveBytes(resizes=True)
    for tensor in [*model.parameters(), *model.buffers()]:
        live.show(tensor, "model")
    with live:
        for step in range(2):
            if step:
                live.reset_peak()
            tokens = torch.randint(0, 100, (1, length))
            batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
            outputs = model(**batch, use_cache=False, fused_lm_head=True)
            loss = -outputs.log_probs.sum() / length
            del outputs
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return live.peak


if __name__ == "__main__":
    place, count, positions, again = sys.argv[1:]
    print(peak_of(Path(place), int(count), int(positions), again == "True"))
