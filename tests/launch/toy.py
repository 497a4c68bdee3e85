"""What the accelerate files are launched with: a toy module, one optimizer step, and what each rank saw.

    accelerate launch --config_file X tests/launch/toy.py REPORT_DIRECTORY [--cpu]

Each rank writes REPORT_DIRECTORY/rank-N.json. No part of the kit is imported: the files are stock.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator, PartialState
from torch import nn

WIDTH, LAYERS, ROWS = 16, 3, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.linear(x))


class Toy(nn.Module):
    """Three blocks, named as transformers names the layers that FSDP wraps."""

    _no_split_modules = ["Block"]

    def __init__(self) -> None:
        super().__init__()
        # DeepSpeed's "auto" bucket sizes are made of it.
        self.config = SimpleNamespace(hidden_size=WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def local_elements(parameter: nn.Parameter) -> int:
    """Count the elements of a parameter that this rank holds."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.numel()
    if hasattr(parameter, "to_local"):
        return parameter.to_local().numel()
    return parameter.numel()


def optimizer_elements(optimizer: torch.optim.Optimizer) -> int:
    """Count the elements of Adam's first moment that this rank holds."""
    inner = getattr(optimizer, "optimizer", optimizer)
    inner = getattr(inner, "optimizer", inner)
    states = [state["exp_avg"] for state in inner.state.values() if "exp_avg" in state]
    return sum(state.to_local().numel() if hasattr(state, "to_local") else state.numel() for state in states)


def main() -> None:
    directory = Path(sys.argv[1])
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and not torch.cuda.is_available():
        # Without it DeepSpeed compiles a communication kernel at its first collective.
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.manual_seed(0)
    if "--cpu" in sys.argv[2:]:
        # As SFTConfig(use_cpu=True) does: the launcher passes use_cpu on to a single process only.
        PartialState(cpu=True)
    accelerator = Accelerator()
    model = Toy()
    total = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = torch.utils.data.DataLoader(torch.randn(64, WIDTH), batch_size=ROWS)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    batch = next(iter(data))
    dtype = next(model.parameters()).dtype
    loss = model(batch.to(dtype)).float().pow(2).mean()
    accelerator.backward(loss)
    optimizer.step()
    loss_sum = accelerator.reduce(loss.detach(), reduction="sum").item()
    rank_sum = accelerator.reduce(torch.tensor(accelerator.process_index), reduction="sum").item()
    report = {
        "distributed_type": accelerator.distributed_type.value,
        "world_size": accelerator.num_processes,
        "rank": accelerator.process_index,
        "device": accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
        "rank_sum": rank_sum,
        "loss": loss.item(),
        "loss_sum": loss_sum,
        "parameters": total,
        "local_parameters": sum(local_elements(parameter) for parameter in model.parameters()),
        "local_optimizer": optimizer_elements(optimizer),
    }
    (directory / f"rank-{accelerator.process_index}.json").write_text(json.dumps(report))
    accelerator.end_training()
    sys.stdout.flush()
    # In the interpreter's own end, gloo's threads may abort the process (pytorch/pytorch#179291): seen once,
    # on a busy machine.
    os._exit(0)


if __name__ == "__main__":
    main()
