"""`Job`: what of a run decides about its memory. Numbers and words only, so that it can be varied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sft.config.kit import Strategy
from sft.plan.adapter import Targets
from sft.plan.memory.optimizers import Optimizer

BUCKET_NUMBERS = 500_000_000
"""What the kit's files for ZeRO-1 and 2 say of reduce_bucket_size, DeepSpeed's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One rank's part of a run.

    Attributes:
        rows, length: of a micro-batch; every row is as long as `max_length`, the most that there can be.
        eval_rows: of a batch of the evaluation; 0 where there is none.
        weight_width: bytes of a number of the weights as they are computed with.
        loaded_width: as they are read from the files, before a strategy converts them.
        own_width, adapter_own_width: as they are stored and updated, where that is wider: FSDP2 gathers shards of float32 in
            bfloat16.
        autocast: bytes of a number that products are computed in; None without mixed precision.
        bits: of a number of a quantised base.
        rank: of the adapter, 0 without one; PEFT trains it in float32, TRL on a quantised base in bfloat16, and DeepSpeed in
            what it computes in.
        saved_whole: modules that are trained whole beside the adapter.
        attention: by FlashAttention, which needs no mask; by another kernel; or spelt out.
        joined: rows are packed or laid behind one another, and masked from one another.
        micro_batches: of a step.
        bucket_numbers: of DeepSpeed's reduce_bucket_size; the kit's files have DeepSpeed's default.
        all_logits: label smoothing reads all logits at once, where the loss is else made in tiles.
        eval_logits: how many evaluation batches' logits are kept on the device, for metrics of the user's own.
        liger: norms, rotations and gates are Liger's kernels; its loss is not used by TRL.
        offloads_activations: what the backward reads waits in host memory.
        scored: share of the positions that carry loss; 1 is the most.
    """

    device: Literal["cpu", "gpu"]
    rows: int
    length: int
    eval_rows: int = 0
    weight_width: int = 4
    own_width: int | None = None
    loaded_width: int = 4
    autocast: int | None = None
    bits: Literal[4, 8] | None = None
    double_quantised: bool = False
    rank: int = 0
    adapter_width: int = 4
    adapter_own_width: int | None = None
    targets: Targets = None
    saved_whole: tuple[str, ...] = ()
    dropout: float = 0.0
    dora: bool = False
    checkpointing: bool = True
    attention: Literal["flash", "kernel", "eager"] = "kernel"
    joined: bool = False
    micro_batches: int = 1
    optimizer: Optimizer = field(default_factory=Optimizer)
    strategy: Strategy = Strategy.SINGLE
    processes: int = 1
    offload: Literal["optimizer", "parameters", "both"] | None = None
    bucket_numbers: int = BUCKET_NUMBERS
    all_logits: bool = False
    eval_logits: int = 0
    offloads_activations: bool = False
    liger: bool = False
    scored: float = 1.0

    @property
    def tokens(self) -> int:
        """Positions of a micro-batch."""
        return self.rows * self.length

    @property
    def trains_all(self) -> bool:
        """Whether every weight is trained."""
        return self.rank == 0
