"""What would make a run fit that does not: the fewest changes, and what each costs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sft.config.kit import Strategy
from sft.plan.memory.estimate import bill_of_job
from sft.plan.memory.job import Job
from sft.plan.shape import Shape
from sft.units import gib

SHORTEST = 512
MOST_CHANGES = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One change to a run, and what it costs.

    Attributes:
        words: what to write in the run file.
        price: what is lost by it.
        apply: the job with it.
        gentle: how little it changes what is trained: 0 changes nothing but time.
    """

    words: str
    price: str
    apply: Callable[[Job], Job]
    gentle: int


@dataclass(frozen=True, slots=True)
class Way:
    """Changes that together make a run fit."""

    changes: tuple[Change, ...]
    saved: int

    def line(self) -> str:
        """Say it for people."""
        words = " and ".join(change.words for change in self.changes)
        prices = ", ".join(dict.fromkeys(change.price for change in self.changes if change.price))
        return f"{words}: {gib(self.saved)} less" + (f" ({prices})" if prices else "")


def ways_to_fit(shape: Shape, job: Job, capacity: int, *, most: int = 5) -> list[Way]:
    """Find the fewest changes that make a job fit; of equally few, the gentlest first."""
    start = bill_of_job(shape, job).at_most
    changes = [*_changes(job)]
    for count in range(1, MOST_CHANGES + 1):
        found = []
        for chosen in itertools.combinations(changes, count):
            changed = job
            for change in chosen:
                changed = change.apply(changed)
            needed = bill_of_job(shape, changed).at_most
            if needed <= capacity:
                found.append(Way(chosen, start - needed))
        if found:
            found.sort(key=lambda way: (sum(change.gentle for change in way.changes), -way.saved))
            return found[:most]
    return []


def _changes(job: Job) -> Iterator[Change]:
    if not job.checkpointing:
        yield Change(
            "gradient_checkpointing: true",
            "about a third more arithmetic",
            lambda one: dataclasses.replace(one, checkpointing=True),
            0,
        )
    if job.rows > 1:
        yield Change(
            f"per_device_train_batch_size: {job.rows} -> 1",
            "gradient_accumulation_steps grows as much",
            lambda one: dataclasses.replace(one, rows=1, micro_batches=one.micro_batches * one.rows),
            0,
        )
    if job.strategy in (Strategy.DDP, Strategy.ZERO1, Strategy.ZERO2):
        yield Change(
            "strategy: zero3",
            "weights are sent three times a step",
            lambda one: dataclasses.replace(one, strategy=Strategy.ZERO3),
            1,
        )
    if job.offload is None and not job.bits:
        yield Change(
            "strategy: zero3_offload",
            "a step waits for host memory",
            lambda one: dataclasses.replace(one, strategy=Strategy.ZERO3_OFFLOAD, offload="both"),
            2,
        )
    if job.strategy.is_deepspeed or job.strategy.is_fsdp:
        yield Change(
            f"{job.processes} more GPUs",
            "",
            lambda one: dataclasses.replace(one, processes=2 * one.processes),
            1,
        )
    if job.length > SHORTEST:
        shorter = max(SHORTEST, job.length * 3 // 4 // 64 * 64)
        yield Change(
            f"max_length: {job.length} -> {shorter}",
            "longer rows are cut",
            lambda one: dataclasses.replace(one, length=shorter),
            3,
        )
    if job.rank and not job.bits:
        yield Change(
            "load_in_4bit: true",
            "a base of 4 bits",
            lambda one: dataclasses.replace(one, bits=4),
            4,
        )
    if job.trains_all:
        if "8bit" not in job.optimizer and job.optimizer.startswith("adamw"):
            yield Change(
                "optim: adamw_8bit",
                "moments of 8 bits",
                lambda one: dataclasses.replace(one, optimizer="adamw_8bit"),
                3,
            )
        yield Change(
            "use_peft: true",
            "an adapter in place of every weight",
            lambda one: dataclasses.replace(one, rank=16, targets="all-linear", dropout=0.05),
            5,
        )
