"""What a machine's own memory has to hold beside the GPUs: the processes, what a strategy keeps there, loading and saving.

Source:
    transformers/modeling_utils.py (who reads the weights: every rank, rank 0 under ZeRO-3, the first of each machine under
    FSDP; quantised ones go to the GPU tensor by tensor); sft/checkpoint/capture.py (a checkpoint is copied, then written).
"""

from __future__ import annotations

import math

from sft.config.kit import Strategy
from sft.plan.memory.bill import Bill, Line
from sft.plan.memory.job import Job
from sft.plan.memory.ledger import Parameter
from sft.plan.memory.step import Held
from sft.plan.shape import Shape

PROCESS_BYTES = 2_300_000_000
"""A rank's process with the libraries loaded, before a weight: 0.75 GB were seen without CUDA, whose host side is the rest."""
WORKER_BYTES = 300_000_000
"""A worker of the data loader."""


def host_bill(
    shape: Shape,
    job: Job,
    held: Held,
    *,
    ranks: int,
    workers: int,
    saved: int = 0,
    capacity: int | None = None,
) -> Bill:
    """Make the bill of machine 0's memory, which has most to hold.

    Args:
        ranks: processes on the machine, each with `workers` of the data loader.
        saved: bytes of a checkpoint that is copied to memory and written while training goes on; 0 where none is.
        capacity: bytes that the machine has.
    """
    lines = [
        Line(
            name="processes",
            likely=ranks * PROCESS_BYTES,
            at_most=ranks * PROCESS_BYTES * 3 // 2,
            formula=f"{ranks} with Python, torch and CUDA",
            basis="extrapolated",
        )
    ]
    if workers:
        lines.append(
            _line(
                "data loaders",
                ranks * workers * WORKER_BYTES,
                f"{ranks * workers} workers, with pinned batches",
            )
        )
    share = math.ceil(held.trained / job.processes) * ranks
    if job.offload in ("optimizer", "both"):
        state = job.optimizer.kept([Parameter(share, 4, trained=True)])
        lines.append(_line("optimizer", state + 8 * share, "weights, gradients and moments, pinned"))
    if job.offload in ("parameters", "both"):
        size = math.ceil(shape.numbers * job.weight_width / job.processes) * ranks
        lines.append(_line("weights", size, "off the GPUs, pinned"))
    if held.host:
        lines.append(_line("activations", ranks * held.host, "off the GPUs, pinned"))
    loading, by = _loading(shape, job, ranks)
    copied = math.ceil(saved * max(ranks / job.processes, 0.5)) if job.processes > ranks else saved
    if copied > loading:
        lines.append(_line("saving", copied, "a checkpoint's copy, until it is written"))
    else:
        lines.append(_line("loading", loading, by))
    return Bill(title="memory of machine 0", lines=tuple(lines), capacity=capacity)


def _loading(shape: Shape, job: Job, ranks: int) -> tuple[int, str]:
    """Return what the weights take on their way to the GPUs, and who holds it."""
    width = job.loaded_width
    if job.bits or job.strategy is Strategy.SINGLE:
        largest = max((tensor.count for tensor in shape.tensors), default=0) * 4
        return ranks * largest, "the largest tensor of each rank"
    if job.strategy.shards_parameters:
        return math.ceil(shape.numbers * width), "all weights, in one process"
    return math.ceil(ranks * shape.numbers * width), "all weights in each process"


def _line(name: str, size: int, formula: str) -> Line:
    return Line(name=name, likely=size, at_most=size, formula=formula, basis="extrapolated")
