"""A bill of memory against the memory that there is, as findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from sft.check.amount import amount_of
from sft.check.finding import Finding, error, note, warning
from sft.check.subject import Subject
from sft.errors import ExitCode
from sft.plan.decide import Option
from sft.plan.gpus import GpuModel
from sft.plan.memory.bill import Bill
from sft.plan.memory.estimate import bill_of_job
from sft.plan.shape import Shape
from sft.units import gib


def judge(subject: Subject, option: Option, shape: Shape) -> Iterator[Finding]:
    """Refuse what is likely to run out of memory; warn where only the bound is above it. On the CPU nothing is said."""
    if option.estimate.job.device == "cpu":
        return
    yield from _logits(subject, option, shape)
    yield from _of_the_machine(option)
    bill = option.estimate.device
    said = f"{bill.title}: about {gib(bill.likely)}, at most {gib(bill.at_most)}"
    if bill.capacity is None:
        yield note(said)
    elif bill.fits:
        yield note(f"{said}, of {gib(bill.capacity)}")
    elif bill.likely <= bill.capacity:
        what = f"the run may not fit: {said}, and there are {gib(bill.capacity)}"
        yield warning(what, "the plan", _fix(subject, option, shape, bill.capacity))
    elif (shorter := _of_the_data(subject, option, shape, bill.capacity)) is not None:
        longest, usual = shorter
        what = (
            f"with rows as long as max_length the run does not fit: {said}, and there are {gib(bill.capacity)}. The longest"
            f" of its first rows has {longest:,} tokens, with which it takes at most {gib(usual.at_most)}"
        )
        yield warning(what, subject.where("max_length"), f"set max_length: {_rounded(longest)} or so")
    else:
        what = f"the run does not fit: {said}, and there are {gib(bill.capacity)}"
        fix = _fix(subject, option, shape, bill.capacity)
        yield error(what, "the plan", fix, exit_code=ExitCode.DOES_NOT_FIT)


def _logits(subject: Subject, option: Option, shape: Shape) -> Iterator[Finding]:
    """Metrics of one's own read logits, and transformers keeps those of all batches where they are until it is told otherwise."""
    job, training = option.estimate.job, subject.config.training
    if job.eval_logits and training.eval_accumulation_steps is None:
        each = 4 * job.eval_rows * job.length * shape.vocabulary * job.processes
        yield warning(
            f"compute_metrics keeps the logits of every evaluation batch on the GPU, up to {gib(each)} a batch, until the"
            " evaluation ends",
            subject.where("compute_metrics"),
            "set eval_accumulation_steps: 1, which moves them to host memory",
        )


def _of_the_machine(option: Option) -> Iterator[Finding]:
    """Warn where a machine's own memory does not hold what lies there: the kernel ends the largest process then."""
    host = option.host
    if host.capacity is not None and host.likely > host.capacity:
        most = max(host.lines, key=lambda line: line.likely)
        yield warning(
            f"{host.title}: about {gib(host.likely)}, and there are {gib(host.capacity)}; most of it is {most.name}"
            f" ({gib(most.likely)}, {most.formula})",
            "the plan",
            "ask for more memory, or choose another launch.strategy: `sft plan` shows the bill",
        )


def _of_the_data(subject: Subject, option: Option, shape: Shape, capacity: int) -> tuple[int, Bill] | None:
    """Return the bill with rows as long as the longest that was seen, where those are shorter than max_length and it fits."""
    amount = None if subject.plan is None else amount_of(subject.loaded, subject.plan)
    longest = None if amount is None else amount.longest
    if longest is None or subject.config.training.packing or longest >= option.estimate.job.length:
        return None
    job = dataclasses.replace(option.estimate.job, length=_rounded(longest))
    bill = bill_of_job(shape, job, capacity)
    return (longest, bill) if bill.fits else None


def _rounded(length: int) -> int:
    """Leave some room above the longest row that was seen."""
    return -(-length * 3 // 2 // 64) * 64


def _fix(subject: Subject, option: Option, shape: Shape, capacity: int) -> str:
    from sft.plan.changes import ways_to_fit

    gpu = GpuModel(name="", memory_mib=capacity >> 20)
    ways = ways_to_fit(subject.config, option.plan, shape, gpu, most=3)
    told = "; or ".join(way.line() for way in ways)
    return told or "use more or larger GPUs, or a smaller model: `sft plan` shows the bill"
