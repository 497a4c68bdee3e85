"""What the ranks agree on: that they are who the plan says, and the largest of their numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed

from sft.config.run import RunConfig
from sft.errors import ExitCode, UserError
from sft.plan.batch import Batch, divide
from sft.plan.joined import one_row_at_a_time
from sft.plan.plan import Plan
from sft.training.rank import Rank

BATCH_KEYS = ("gradient_accumulation_steps", "train_micro_batch_size_per_gpu")
"""What DeepSpeed is told of the batch, where it is not left to the trainer."""


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set on any rank. A collective: every rank must call it."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return flag
    tensor = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return bool(tensor.item())


def first_said(text: str | None) -> str:
    """Return what the first rank says that says anything. A collective of objects: not for every step."""
    said: list[str | None] = [text]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        said = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(said, text)
    return next((one for one in said if one), "no rank says why")


def largest(value: float, device: torch.device) -> float:
    """Return the largest of the ranks' values. A collective: every rank must call it."""
    return largest_of([value], device)[0]


def largest_of(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the largest of the ranks' values, each by itself. One collective: every rank must call it."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [float(value) for value in values]
    kind = torch.float64 if device.type != "mps" else torch.float32
    tensor = torch.tensor([float(value) for value in values], dtype=kind, device=device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return [float(value) for value in tensor.tolist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the launcher promised the ranks. `distributed_type` None: launched by hand, and it did not say."""

    processes: int
    distributed_type: str | None
    device: str
    batch: Batch
    source: str


def promised_world(config: RunConfig, plan: Plan | None) -> World:
    """Take the promise from the plan; without one (launched by hand), from the launcher's own variables.

    Raises:
        UserError: total_train_batch_size cannot be had with the processes that were started.
    """
    if plan is not None:
        return World(
            processes=plan.processes,
            distributed_type=plan.distributed_type,
            device="cuda" if plan.device == "gpu" else "cpu",
            batch=plan.batch,
            source="the plan",
        )
    kind = None
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        kind = "DEEPSPEED"
    elif os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        kind = "FSDP"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    given = config.training.model_fields_set
    batch = divide(
        config.kit.total_train_batch_size,
        config.training.per_device_train_batch_size if "per_device_train_batch_size" in given else None,
        config.training.gradient_accumulation_steps if "gradient_accumulation_steps" in given else None,
        processes,
        where="total_train_batch_size",
    )
    if not _batch_is_fixed():
        batch = one_row_at_a_time(config, batch)
    on_cpu = config.training.use_cpu or not torch.cuda.is_available()
    device = os.environ.get("ACCELERATE_TORCH_DEVICE") or ("cpu" if on_cpu else "cuda")
    return World(
        processes=processes,
        distributed_type=kind,
        device=device,
        batch=batch,
        source="the launcher's environment",
    )


def _batch_is_fixed() -> bool:
    """Whether the accelerate file of a launch by hand fixes what the batch is made of; DeepSpeed then insists on it."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return False
    settings = {key: os.environ.get(f"ACCELERATE_{key.upper()}") for key in BATCH_KEYS}
    file = Path(os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", ""))
    if file.is_file():
        settings = json.loads(file.read_text(encoding="utf-8"))
    return any(str(settings.get(key)).isdigit() for key in BATCH_KEYS)


def assert_world(
    world: World, *, processes: int, device: torch.device, distributed_type: str | None, rank: Rank
) -> None:
    """Refuse to train in another arrangement than the promised one.

    accelerate falls back in silence: two processes that each train alone into one directory, or FSDP
    that is DDP, look like a healthy run.

    Raises:
        UserError: world size, distributed type or device differ.
    """
    differences = []
    if processes != world.processes:
        differences.append(f"{processes} processes instead of {world.processes}")
    if world.distributed_type and distributed_type and distributed_type != world.distributed_type:
        differences.append(f"distributed type {distributed_type} instead of {world.distributed_type}")
    if device.type != world.device:
        differences.append(f"device {device.type} instead of {world.device}")
    if differences:
        raise UserError(
            f"the ranks came up otherwise than planned: {'; '.join(differences)}",
            where=f"rank {rank.index}, against {world.source}",
            fix="launch with `sft launch`, or give accelerate the file it wrote (_sft/accelerate.yaml)",
            exit_code=ExitCode.ENVIRONMENT,
        )
