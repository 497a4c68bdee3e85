"""What a machine's own memory has to hold beside the GPUs: the processes, and what a strategy keeps there."""

from __future__ import annotations

import math

from sft.plan.memory.bill import Bill, Line
from sft.plan.memory.job import Job
from sft.plan.memory.ledger import Parameter
from sft.plan.memory.states import optimizer_bytes
from sft.plan.shape import Shape

PROCESS_BYTES = 2_300_000_000
"""A rank's process with the libraries loaded, before a weight: 0.75 GB were seen without CUDA, whose host side is the rest."""
WORKER_BYTES = 300_000_000
"""A worker of the data loader."""


def host_bill(
    shape: Shape, job: Job, trained: int, *, ranks: int, workers: int, capacity: int | None = None
) -> Bill:
    """Make the bill of one machine's memory.

    Args:
        trained: how many numbers are trained.
        ranks: processes on the machine, each with `workers` of the data loader.
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
        size = ranks * workers * WORKER_BYTES
        lines.append(_exact("data loaders", size, f"{ranks * workers} workers"))
    share = math.ceil(trained / job.processes) * ranks
    if job.offload in ("optimizer", "both"):
        state = optimizer_bytes(job.optimizer, [Parameter(share, 4, trained=True)])
        lines.append(_exact("optimizer", state + 8 * share, "weights, gradients and moments"))
    if job.offload in ("parameters", "both"):
        size = math.ceil(shape.numbers * job.weight_width / job.processes) * ranks
        lines.append(_exact("weights", size, "off the GPUs"))
    if job.offload is None:
        largest = max((tensor.count for tensor in shape.tensors), default=0) * 4
        lines.append(_exact("loading", ranks * largest, "the largest tensor of each rank"))
    return Bill(title="memory of one machine", lines=tuple(lines), capacity=capacity)


def _exact(name: str, size: int, formula: str) -> Line:
    return Line(name=name, likely=size, at_most=size, formula=formula, basis="extrapolated")
