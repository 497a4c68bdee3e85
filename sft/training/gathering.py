"""Gather the weights that ZeRO-3 shards, for a save, at the price of what is saved. Below the torch line.

DeepSpeed's own consolidation gives every rank every weight, frozen ones too, and then broadcasts each as if rank 0 had
changed it: with LoRA that is the whole base for an adapter of a few MB. Here rank 0 alone is sent the shards, and only
of what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from deepspeed import DeepSpeedEngine

BATCH_BYTES = 1 << 26
"""How much is sent at a time, over all ranks; a weight that is larger comes alone."""

Weights = list[torch.nn.Parameter]


def consolidated(
    engine: Any,
    exclude_frozen_parameters: bool = False,
    *,
    memory: Callable[[int], torch.Tensor],
) -> dict[str, torch.Tensor] | None:
    """Return what `DeepSpeedEngine._zero3_consolidated_16bit_state_dict` returns. A collective of all ranks.

    Args:
        memory: gives so many bytes of host memory, as uint8 of one dimension.

    Returns:
        On rank 0 the weights in host memory, as they are trained, and the persistent buffers; elsewhere None.
    """
    module = engine.module
    names: dict[torch.nn.Parameter, list[str]] = {}
    for name, weight in module.named_parameters(remove_duplicate=False):
        if weight.requires_grad or not exclude_frozen_parameters:
            names.setdefault(weight, []).append(name)
    if not all(map(_is_in_plain_shards, names)):
        return DeepSpeedEngine._zero3_consolidated_16bit_state_dict(engine, exclude_frozen_parameters)
    state: dict[str, torch.Tensor] = {}
    for batch in _batches(list(names)):
        for weight, whole in _sent(batch, engine.device, memory):
            state |= dict.fromkeys(names[weight], whole)
    if torch.distributed.get_rank() != 0:
        return None
    persistent = module.state_dict().keys()
    state |= {name: each.detach().cpu() for name, each in module.named_buffers() if name in persistent}
    return state


def _is_in_plain_shards(weight: torch.nn.Parameter) -> bool:
    """Tell whether every rank of the run holds an equal share in memory, as it is: not on NVMe, not quantized."""
    shard = getattr(weight, "ds_tensor", None)
    return (
        shard is not None
        and shard.final_location is None
        and not hasattr(shard, "ds_quant_scale")
        and torch.distributed.get_world_size(weight.ds_process_group) == torch.distributed.get_world_size()
    )


def _batches(weights: Weights) -> Iterator[Weights]:
    batch: Weights = []
    size = 0
    for weight in weights:
        more = weight.ds_numel * weight.element_size()
        if batch and size + more > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(weight)
        size += more
    if batch:
        yield batch


def _sent(
    batch: Weights, device: torch.device, memory: Callable[[int], torch.Tensor]
) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Send rank 0 the shards of some weights, and yield these there, whole and in host memory."""
    shards = [weight.ds_tensor.detach().view(torch.uint8) for weight in batch]
    own = torch.cat([shard.to(device) for shard in shards])
    ranks = torch.distributed.get_world_size()
    received = [torch.empty_like(own) for _ in range(ranks)] if torch.distributed.get_rank() == 0 else None
    torch.distributed.gather(own, received, dst=0)
    if received is None:
        return
    start = 0
    for weight, shard in zip(batch, shards, strict=True):
        # The last rank's shard is padded to the length of the others.
        whole = memory(ranks * len(shard))
        for row, part in zip(whole.view(ranks, -1), received, strict=True):
            row.copy_(part[start : start + len(shard)])
        start += len(shard)
        yield weight, whole.view(weight.ds_tensor.dtype)[: weight.ds_numel].view(weight.ds_shape)
