"""How long a step takes, by a roofline: what must be computed, read and sent, against what the hardware can do at best.

The model says how arrangements compare, and about how long a run takes; it does not know a cluster's file system, or how
well a kernel suits a GPU. What it takes for granted is in `ASSUMED`, and is printed with the plan.

Source:
    Kaplan et al., arXiv:2001.08361, section 2.1 (2 operations a weight and token forward, twice that backward);
    Korthikanti et al., arXiv:2205.05198 (what recomputation adds); ZeRO, arXiv:1910.02054, section 7 (what is sent).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sft.config.kit import Strategy
from sft.plan.adapter import is_target
from sft.plan.gpus import GpuModel
from sft.plan.memory.job import Job
from sft.plan.shape import Linear, Shape

ASSUMED: Mapping[str, float] = MappingProxyType(
    {
        "share of the peak arithmetic that is reached": 0.5,
        "positions of a micro-batch that reach half of that": 512.0,
        "share of the peak bandwidth that is reached": 0.7,
        "between machines, GB/s a GPU": 25.0,
        "to host memory, GB/s a GPU": 20.0,
        "the optimizer on the CPU, GB/s a GPU": 10.0,
    }
)
REACHED, HALF_AT, BANDWIDTH, ACROSS, HOST, CPU_OPTIMIZER = ASSUMED.values()
ADAM_BYTES = 28
"""Read and written of each trained number by one step of AdamW in float32: weight, gradient and two moments."""


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of one token, forward and backward."""

    forward: float
    backward: float
    again: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.forward + self.backward + self.again


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one optimizer step.

    Attributes:
        sends: what sending takes longer than the arithmetic that it hides behind.
        bound: what decides.
    """

    computes: float
    sends: float
    updates: float
    tokens: int

    @property
    def seconds(self) -> float:
        """The sum."""
        return self.computes + self.sends + self.updates

    @property
    def bound(self) -> str:
        """Name the longest part."""
        parts = {"arithmetic": self.computes, "sending": self.sends, "the optimizer": self.updates}
        return max(parts, key=lambda name: parts[name])


def work_of(shape: Shape, job: Job) -> Work:
    """Count the operations of a token, in the middle of a row of full length on average."""
    body = adapters = attention = 0.0
    for layer in shape.layers:
        linears = [
            *layer.into_attention,
            layer.out_of_attention,
            *layer.into_network,
            layer.out_of_network,
            layer.router,
        ]
        for linear in linears:
            if linear is None:
                continue
            body += 2.0 * linear.inputs * linear.outputs
            adapters += _adapter(linear, job)
        if layer.experts is not None:
            body += 2.0 * layer.experts.numbers / layer.experts.count * layer.experts.chosen
        seen = min(job.length / 2, layer.window or job.length / 2)
        attention += 4.0 * shape.heads * shape.head_size * seen
    head = 2.0 * shape.hidden * shape.vocabulary * job.scored
    forward = body + attention + head + adapters
    # A frozen matrix passes its gradient on and gets none; the head's product is made anew, tile by tile.
    backward = (2 if job.trains_all else 1) * (body + head) + 2 * (attention + adapters) + head
    again = body + attention + adapters if job.checkpointing else 0.0
    return Work(forward, backward, again)


def _adapter(linear: Linear, job: Job) -> float:
    if not job.rank or not is_target(linear.name, job.targets):
        return 0.0
    return 2.0 * job.rank * (linear.inputs + linear.outputs)


def step_time(shape: Shape, job: Job, gpu: GpuModel, *, nodes: int, trained: int) -> StepTime:
    """Estimate one optimizer step of all ranks."""
    tokens = job.tokens * job.micro_batches
    peak = gpu.tflops * 1e12 * REACHED * job.tokens / (job.tokens + HALF_AT)
    computes = work_of(shape, job).total * tokens / peak
    link = (gpu.link_gbs / 2 if nodes == 1 else min(ACROSS, gpu.link_gbs / 2)) * 1e9 * BANDWIDTH
    others = (job.processes - 1) / job.processes
    width = 2 if job.autocast or job.weight_width == 2 else 4
    sent = 2 * others * trained * (width if job.strategy.is_deepspeed or job.strategy.is_fsdp else 4)
    if job.strategy.shards_parameters:
        sent = others * (2 * shape.numbers * width * job.micro_batches + trained * width)
    if job.strategy is Strategy.SINGLE:
        sent = 0.0
    hidden = computes * 0.7  # what is gathered ahead and reduced behind the backward
    updates = trained * ADAM_BYTES / _shards(job) / (gpu.memory_gbs * 1e9 * BANDWIDTH)
    if job.offload in ("optimizer", "both"):
        updates = trained / job.processes * (6 / (HOST * 1e9) + ADAM_BYTES / (CPU_OPTIMIZER * 1e9))
    if job.offload in ("parameters", "both"):
        sent += 2 * shape.numbers * width / job.processes * job.micro_batches * link / (HOST * 1e9)
    return StepTime(computes, max(0.0, sent / link - hidden), updates, tokens * job.processes)


def _shards(job: Job) -> int:
    """Into how many parts the optimizer's state is cut."""
    return job.processes if job.strategy.is_deepspeed or job.strategy.is_fsdp else 1
