"""Choose an arrangement: of those that fit, the one that the roofline says is fastest; and say why the others were not taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from sft.config.kit import Strategy
from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.plan.batch import Batch
from sft.plan.gpus import GpuModel
from sft.plan.joined import one_row_at_a_time
from sft.plan.memory.bill import Bill
from sft.plan.memory.estimate import Estimate, estimate
from sft.plan.memory.host import host_bill
from sft.plan.memory.step import Hold, held_by
from sft.plan.plan import Plan
from sft.plan.roofline import StepTime, step_time
from sft.plan.shape import Shape
from sft.units import gib

ONE = (Strategy.SINGLE, Strategy.ZERO3_OFFLOAD)
MANY = (Strategy.DDP, Strategy.ZERO2, Strategy.ZERO3, Strategy.FSDP2, Strategy.ZERO3_OFFLOAD)
"""What `strategy: auto` chooses from, the simplest first: of two that are as fast, the first is taken."""
LARGEST_MICRO_BATCH = 64
TOLD = 3
"""How many of those that were not taken the plan tells of."""
AS_FAST = 0.95
"""One that is not at least so much faster is not worth a more complicated strategy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An arrangement that could be launched, with its bill and its time.

    Attributes:
        host: what a machine's own memory has to hold.
        refused: the combination rule that it breaks.
    """

    plan: Plan
    estimate: Estimate
    time: StepTime | None
    host: Bill
    refused: str | None = None

    @property
    def fits(self) -> bool:
        """Whether its bound is within what there is, and no rule speaks against it."""
        is_enough = self.host.capacity is None or self.host.likely <= self.host.capacity
        return self.refused is None and self.estimate.device.fits and is_enough

    @property
    def seconds(self) -> float:
        """A step's time; 0 where nobody knows the GPU's speed."""
        return self.time.seconds if self.time is not None else 0.0

    @property
    def name(self) -> str:
        """Say which it is."""
        plan = self.plan
        return f"{plan.strategy.value}, {plan.micro_batch} x {plan.accumulation}"


def option(
    config: RunConfig,
    plan: Plan,
    shape: Shape,
    gpu: GpuModel | None,
    host_bytes: int | None = None,
    hold: Hold = held_by,
) -> Option:
    """Make the bill and the time of one arrangement.

    Args:
        host_bytes: what a machine's own memory has; None where nobody knows.
        hold: works out what a rank holds, which takes the time of all this.
    """
    from sft.plan.combinations import check_combinations

    made = estimate(config, plan, shape, gpu, hold)
    broken = check_combinations(config, plan)
    time = None
    if gpu is not None and gpu.is_timed:
        time = step_time(shape, made.job, gpu, nodes=plan.nodes, trained=made.held.trained)
    host = host_bill(
        shape,
        made.job,
        made.held,
        ranks=plan.processes_per_node,
        workers=config.training.dataloader_num_workers,
        capacity=host_bytes,
    )
    return Option(plan=plan, estimate=made, time=time, host=host, refused=broken[0].what if broken else None)


def choose(
    config: RunConfig,
    plan: Plan,
    shape: Shape,
    gpu: GpuModel | None,
    *,
    strategy: bool,
    micro_batch: bool,
    host_bytes: int | None = None,
    hold: Hold = held_by,
) -> tuple[Option, list[Option]]:
    """Choose among the arrangements of one run.

    Args:
        plan: what the run file says without a choice.
        strategy, micro_batch: what is left to choose.

    Returns:
        The one that is taken, the smallest if none fits; and the others, fastest first.
    """
    options: list[Option] = []
    for other in _alternatives(config, plan, strategy, micro_batch):
        smaller = options[-1] if options and options[-1].plan.strategy is other.strategy else None
        if smaller is None or smaller.estimate.device.fits:  # with more rows at once it would not fit either
            options.append(option(config, other, shape, gpu, host_bytes, hold))
    fitting = [one for one in options if one.fits]
    if not fitting:
        allowed = [one for one in options if one.refused is None] or options
        least = min(allowed, key=lambda one: one.estimate.device.at_most)
        return least, [one for one in options if one is not least]
    taken = fitting[0]
    for one in fitting[1:]:
        if one.seconds < taken.seconds * AS_FAST or (not one.seconds and _is_better_untimed(one, taken)):
            taken = one
    others = sorted((one for one in options if one is not taken), key=lambda one: one.seconds)
    return taken, others


def decide(
    loaded: LoadedRun,
    plan: Plan,
    shape: Shape | None,
    gpu: GpuModel | None,
    host_bytes: int | None = None,
    hold: Hold = held_by,
) -> tuple[Plan, Option | None, list[Option]]:
    """Settle what a run file leaves to the plan, where the model's shape is known.

    Returns:
        The plan with what was chosen; its bill and time; and what was not taken.
    """
    if shape is None:
        return plan, None, []
    config = loaded.config
    is_divided = "gradient_accumulation_steps" in config.training.model_fields_set
    strategy = config.launch.strategy == "auto"
    micro_batch = config.kit.micro_batch == "auto" and not is_divided
    if gpu is None or not (strategy or micro_batch):
        # Without a GPU that is known nothing can be compared; where the run starts it is.
        only = option(config, plan, shape, gpu, host_bytes, hold)
        return dataclasses.replace(plan, memory=only.estimate.device.to_json()), only, []
    taken, others = choose(
        config,
        plan,
        shape,
        gpu,
        strategy=strategy,
        micro_batch=micro_batch,
        host_bytes=host_bytes,
        hold=hold,
    )
    choices = [_chosen(taken, len(others) + 1)]
    choices += [f"not taken: {other.name}: {why_not(other, taken)}" for other in others[:TOLD]]
    memory = taken.estimate.device.to_json()
    return dataclasses.replace(taken.plan, choices=tuple(choices), memory=memory), taken, others


def _chosen(taken: Option, count: int) -> str:
    if not taken.fits:
        return f"none of {count} arrangements fits; the one that holds least: {taken.name}"
    time = f", {taken.seconds:.2f} s a step" if taken.seconds else ""
    host = f"; {gib(taken.host.likely)} of each machine's memory" if taken.estimate.job.offload else ""
    return f"chosen: {taken.name}{time}{host}"


def why_not(other: Option, taken: Option) -> str:
    """Say why an arrangement was not taken."""
    if other.refused is not None:
        return other.refused
    bill = other.estimate.device
    if not bill.fits:
        return f"may reach {gib(bill.at_most)}, and there are {gib(bill.capacity or 0)}"
    host = other.host
    if host.capacity is not None and host.likely > host.capacity:
        return f"takes {gib(host.likely)} of a machine's memory, and there are {gib(host.capacity)}"
    if other.seconds and taken.seconds and taken.fits:
        return (
            f"{other.seconds / taken.seconds:.2f} times as long, by {other.time.bound if other.time else ''}"
        )
    return "fits as well"


def _is_better_untimed(one: Option, taken: Option) -> bool:
    """Without a GPU's speed: more rows at once, of the simplest strategy that fits."""
    return one.plan.strategy is taken.plan.strategy and one.plan.micro_batch > taken.plan.micro_batch


def _alternatives(config: RunConfig, plan: Plan, strategy: bool, micro_batch: bool) -> Iterator[Plan]:
    names = (ONE if plan.processes == 1 else MANY) if strategy else (plan.strategy,)
    for name in names:
        for batch in dict.fromkeys(
            one_row_at_a_time(config, one) for one in _batches(plan.batch, micro_batch)
        ):
            yield dataclasses.replace(
                plan, strategy=name, micro_batch=batch.micro_batch, accumulation=batch.accumulation
            )


def _batches(batch: Batch, is_open: bool) -> Iterator[Batch]:
    """Divide the rows of a step otherwise: the same rows, more or fewer at once."""
    if not is_open:
        yield batch
        return
    rows = batch.total // batch.processes
    for micro in range(1, min(rows, LARGEST_MICRO_BATCH) + 1):
        if rows % micro == 0:
            yield Batch(micro, rows // micro, batch.processes)
