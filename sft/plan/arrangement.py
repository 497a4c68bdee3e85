"""`Arrangement`: processes over machines, and the strategy that lays the model over them.

What an accelerate file says, and the part of a plan that has to do with it. No batch, no model, no data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sft.config.kit import Strategy

Device = Literal["gpu", "cpu"]
Offload = Literal["optimizer", "parameters", "both"]
DEFAULT_PORT = 29500
"""Where machines meet if nobody says: accelerate's own."""
Precision = Literal["auto", "no", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """Where processes run. `mixed_precision` is "auto" where the run file's bf16 and fp16 are to decide."""

    strategy: Strategy
    device: Device
    processes_per_node: int
    nodes: int = 1
    mixed_precision: Precision = "auto"
    machine_rank: int = 0
    main_process_ip: str | None = None
    main_process_port: int | None = None
    gpu_ids: str | None = None
    offload: Offload = "both"

    @property
    def processes(self) -> int:
        """World size."""
        return self.nodes * self.processes_per_node

    @property
    def distributed_type(self) -> str:
        """What accelerate's `PartialState.distributed_type` must be on every rank."""
        if self.strategy.is_deepspeed:
            return "DEEPSPEED"
        if self.strategy.is_fsdp:
            return "FSDP"
        if self.processes == 1:
            return "NO"
        return "MULTI_GPU" if self.device == "gpu" else "MULTI_CPU"
