"""What a run held at its most, beside what was planned: `_sft/measured.json`, next to `plan.json`."""

from __future__ import annotations

import json
import resource
import sys

import torch

from sft.files import write_whole
from sft.training.agreement import largest_of
from sft.training.rank import Rank
from sft.units import gib


def write_measured(rank: Rank, device: torch.device, step: int) -> None:
    """Write the most that any rank held. A collective: every rank must call it.

    On a GPU: bytes of tensors, and bytes that the allocator reserved for them. Of the process: its largest resident set.
    """
    on_gpu = device.type == "cuda"
    held = [
        float(torch.cuda.max_memory_allocated(device)) if on_gpu else 0.0,
        float(torch.cuda.max_memory_reserved(device)) if on_gpu else 0.0,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
    ]
    allocated, reserved, resident = (int(value) for value in largest_of(held, device))
    if not rank.is_main:
        return
    found = {"step": step, "process_bytes": resident}
    if on_gpu:
        found |= {"gpu_allocated_bytes": allocated, "gpu_reserved_bytes": reserved}
    write_whole(rank.run.measured_json, json.dumps(found, indent=2) + "\n")
    _tell(rank, allocated if on_gpu else None, reserved)


def _tell(rank: Rank, allocated: int | None, reserved: int) -> None:
    """Say how the plan and the run compare, where both are known."""
    try:
        planned = json.loads(rank.run.plan_json.read_text(encoding="utf-8")).get("memory")
    except (OSError, ValueError):
        return
    if planned and allocated is not None:
        print(
            f"memory of one GPU: {gib(allocated)} in tensors, {gib(reserved)} reserved; planned: about"
            f" {gib(planned['likely'])}, at most {gib(planned['at_most'])}",
            file=sys.stderr,
        )
