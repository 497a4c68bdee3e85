"""What a strategy lays over the ranks: which part of weights, gradients and optimizer a rank holds, and what it gathers.

Source:
    ZeRO, arXiv:1910.02054, section 5 (what each stage shards);
    deepspeed/runtime/zero/stage_1_and_2.py (two buckets of reduce_bucket_size numbers, from the first gradient of a backward
    to its end; the float32 master weights) and partition_parameters.py, partitioned_param_coordinator.py (ZeRO-3);
    torch/distributed/fsdp/_fully_shard (FSDP2: a layer is gathered before it runs and freed behind it, the next one is
    gathered meanwhile);
    torch/csrc/distributed/c10d/reducer.cpp (DDP: a second copy of the gradients, in buckets).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import accumulate

from sft.config.kit import Strategy
from sft.plan.memory.job import Job
from sft.plan.memory.ledger import Buffer, Parameter
from sft.plan.memory.tape import Tape

MASTER_WIDTH = 4
"""DeepSpeed's own weights, in float32, that the optimizer works on."""
MOST_GATHERED = 1_000_000_000
"""stage3_max_live_parameters and stage3_max_reuse_distance of the kit's files."""
SAVED_AT_ONCE = 1 << 26
"""What is sent to rank 0 at a time for a save under ZeRO-3."""
ALWAYS_WHOLE = 10
"""Times the hidden size: smaller parameters stay whole on every rank under ZeRO-3, as transformers fills in "auto"."""


@dataclass(slots=True)
class Sharding:
    """One rank's share of a model, and the buffers that its strategy works with.

    Attributes:
        layers: the parameters of each layer; `rest` what is in none.
        _flat: what FSDP2 received last, beside the weights that were copied out of it, until it receives the next
            (_fsdp_param_group.py, AllGatherState).
    """

    tape: Tape
    job: Job
    hidden: int
    parameters: list[Parameter]
    layers: list[list[Parameter]]
    buffer_bytes: int
    _held: list[Buffer] = field(default_factory=list)
    _gathered: dict[int, Buffer] = field(default_factory=dict)
    _buckets: Buffer | None = None
    _flat: Buffer | None = None
    _reduced: list[Buffer] = field(default_factory=list)
    _sharded_sizes: list[int] = field(init=False)
    _numbers_behind: list[int] = field(init=False)

    def __post_init__(self) -> None:
        # Of each layer: what is gathered of it, and how many numbers the layers behind it have.
        self._sharded_sizes = [sum(p.size for p in layer if self._is_sharded(p)) for layer in self.layers]
        numbers = [sum(parameter.numbers for parameter in layer) for layer in self.layers]
        self._numbers_behind = [sum(numbers) - until for until in accumulate(numbers)]

    @property
    def trained(self) -> list[Parameter]:
        """What the optimizer works on."""
        return [parameter for parameter in self.parameters if parameter.needs_grad]

    @property
    def _master(self) -> Parameter:
        """This rank's part of what is trained, as DeepSpeed's optimizer works on it: flat, in float32."""
        share = math.ceil(sum(parameter.numbers for parameter in self.trained) / self.job.processes)
        return Parameter(share, MASTER_WIDTH, trained=True)

    def hold(self) -> None:
        """Allocate what stays between the steps."""
        job, strategy = self.job, self.job.strategy
        on_device = job.device == "cpu" or job.offload is None
        weights = self._weights() + self.buffer_bytes
        self._hold("weights", weights)
        if strategy.is_deepspeed:
            master = self._master
            if on_device or job.offload == "parameters":
                self._hold("optimizer", master.size + job.optimizer.kept([master]))
                if strategy.shards_parameters:
                    self._hold("gradients", master.numbers * job.weight_width)
            for parameter in self.trained:
                parameter.take_grad = self._take
            return
        shards = job.processes if strategy.is_fsdp else 1
        if on_device:
            self._hold("optimizer", job.optimizer.kept(self.trained, shards))
        if job.optimizer.is_layerwise:
            for parameter in self.trained:
                parameter.take_grad = lambda grad: (
                    None
                )  # each weight is updated as soon as its gradient is there
        if strategy is Strategy.DDP:
            self._hold("strategy", sum(parameter.size for parameter in self.trained))
        if strategy.is_fsdp:
            for parameter in self.trained:
                parameter.take_grad = self._take

    def _hold(self, kind: str, size: float) -> None:
        self._held.append(self.tape.buffer(size, kind))

    def _weights(self) -> int:
        """Add up the bytes of weights that lie on this rank's device."""
        job, total = self.job, 0
        for parameter in self.parameters:
            if self._is_sharded(parameter):
                total += (
                    0 if job.offload in ("parameters", "both") else math.ceil(parameter.held / job.processes)
                )
            else:
                total += parameter.held
                if job.strategy.is_deepspeed and job.strategy.shards_parameters:
                    total += math.ceil(parameter.held / job.processes)  # its shard is there as well
        return total

    def _is_sharded(self, parameter: Parameter) -> bool:
        job = self.job
        if not job.strategy.shards_parameters:
            return False
        return job.strategy.is_fsdp or parameter.numbers > ALWAYS_WHOLE * self.hidden

    # --- while a step runs

    def gather(self, index: int, following: int) -> None:
        """Have a layer's weights whole, and those of the one that follows on their way."""
        if not self.job.strategy.shards_parameters:
            return
        is_fsdp, is_forward = self.job.strategy.is_fsdp, following > index
        # On a CPU, FSDP2's next layer is gathered when its turn comes; a GPU's host runs ahead and asks for it.
        ahead = () if is_fsdp and is_forward and self.job.device == "cpu" else (following,)
        for near in (index, *ahead):
            if 0 <= near < len(self.layers) and near not in self._gathered:
                size = self._sharded_sizes[near]
                self._gathered[near] = self.tape.buffer(size, "strategy")
                if is_fsdp:
                    self._flat = self.tape.buffer(size, "strategy")

    def gather_rest(self, parameters: list[Parameter]) -> Buffer | None:
        """Have what lies outside the layers whole, as long as the buffer lives."""
        size = sum(parameter.size for parameter in parameters if self._is_sharded(parameter))
        return self.tape.buffer(size, "strategy") if size else None

    @property
    def keeps_all(self) -> bool:
        """Whether the whole model is read again before ZeRO-3 would free any of it."""
        return 2 * sum(parameter.numbers for parameter in self.parameters) < MOST_GATHERED

    def release(self, index: int, *, is_forward: bool) -> None:
        """Free a layer's weights; ZeRO-3 keeps what the backward will read before long."""
        until_read_again = 2 * self._numbers_behind[index]
        if is_forward and self.job.strategy.is_deepspeed and until_read_again < MOST_GATHERED:
            return
        self._gathered.pop(index, None)

    def _take(self, grad: Buffer) -> None:
        """Reduce a gradient over the ranks, and keep this rank's part of it."""
        job = self.job
        if job.strategy.is_deepspeed and self._buckets is None:
            numbers = job.bucket_numbers if (job.strategy.zero_stage or 0) < 3 else self.hidden**2
            self._buckets = self.tape.buffer(2 * numbers * job.weight_width, "strategy")
        if job.offload in ("optimizer", "both") and job.device == "gpu":
            return
        if job.strategy.is_deepspeed and job.strategy.shards_parameters:
            return  # into the flat buffer that is held all the time
        if (job.strategy.is_fsdp or job.strategy.zero_stage == 1) and job.micro_batches > 1:
            # Gradients are accumulated whole, and reduced with the last micro-batch.
            if len(self._reduced) < len(self.trained):
                grad.become("gradients")
                self._reduced.append(grad)
            return
        wider = (job.own_width or job.weight_width) / job.weight_width
        self._reduced.append(self.tape.buffer(grad.size * wider / job.processes, "gradients"))

    def end_backward(self) -> None:
        """Drop the buckets and what is gathered."""
        self._buckets = None
        self._flat = None
        self._gathered.clear()

    def step(self) -> None:
        """Update the weights. DeepSpeed makes float32 gradients of this rank's part for its master weights first."""
        job = self.job
        if not (job.offload and job.device == "gpu"):
            if job.strategy.is_deepspeed:
                master = self._master
                grads = self.tape.buffer(master.size, "gradients")
                self.tape.buffer(job.optimizer.updating([master], job.device), "optimizer")
                del grads
            else:
                shards = job.processes if job.strategy.is_fsdp else 1
                self.tape.buffer(job.optimizer.updating(self.trained, job.device) / shards, "optimizer")
        self._reduced.clear()

    def save(self) -> None:
        """Gather what is sharded for a save, a part at a time: copies go to host memory as they are.

        Source:
            sft/training/gathering.py, BATCH_BYTES (ZeRO-3); torch/distributed/checkpoint/state_dict.py (FSDP2, by tensor).
        """
        if not self.job.strategy.shards_parameters:
            return
        sizes = [parameter.size for parameter in self.parameters if self._is_saved(parameter)]
        largest = max(sizes, default=0)
        at_once = min(SAVED_AT_ONCE, sum(sizes)) if self.job.strategy.is_deepspeed else 0
        self.tape.buffer(max(largest, at_once), "strategy")

    def _is_saved(self, parameter: Parameter) -> bool:
        return self._is_sharded(parameter) and (parameter.needs_grad or self.job.trains_all)
