"""What a prepared split is in numbers: for people in lines, for programs as plain data."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sft.data.histogram import Bin, bins_of, draw_histogram
from sft.data.ledger import SplitSummary
from sft.data.padding import ORDERS, Lengths, padding_share
from sft.data.screen import count, share
from sft.data.work import LOST

INDENT = 16
ORDER_WORDS = {
    "random": "in random order",
    "sequential": "in the order of the rows",
    "group_by_length": "with train_sampling_strategy: group_by_length",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch:
    """What the plan and the run file say of an epoch.

    Attributes:
        sampling: train_sampling_strategy.
        max_steps: the run ends after so many optimizer steps; None where it ends after its epochs.
        padding_free: rows of a micro-batch are laid behind one another, and none is padded.
    """

    micro_batch: int
    accumulation: int
    processes: int
    epochs: float = 1.0
    max_steps: int | None = None
    drop_last: bool = False
    sampling: str = "random"
    pad_to_multiple_of: int | None = None
    padding_free: bool = False

    @property
    def total(self) -> int:
        """Rows an optimizer step."""
        return self.micro_batch * self.accumulation * self.processes

    def steps_an_epoch(self, rows: int) -> int:
        """Count optimizer steps.

        Source:
            BatchSamplerShard.__len__ of accelerate/data_loader.py, and set_initial_training_values of
            transformers/trainer.py.
        """
        divide = _floor if self.drop_last else _ceiling
        batches = divide(divide(rows, self.micro_batch), self.processes)
        return max(1, _ceiling(batches, self.accumulation))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Lengths in tokens, before anything is cut or packed."""

    shortest: int
    mean: float
    p50: int
    p90: int
    p99: int
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitStats:
    """The numbers of one split.

    Attributes:
        length: None where no row is trained.
        tokens_cut: that truncation took from rows that are trained.
        packed_share: how full the packed rows are; None where rows are not packed.
        padding: share of padding by the order of rows; None where nothing is padded, or it is no training split.
    """

    name: str
    summary: SplitSummary
    length: Spread | None
    bins: list[Bin]
    tokens_cut: int
    batch: PlannedBatch | None = None
    packed_share: float | None = None
    padding: dict[str, float] | None = None
    steps_an_epoch: int | None = None

    @property
    def answers(self) -> dict[str, int]:
        """Count the rows beyond max_length by what became of their answer; those that lost it are dropped."""
        summary = self.summary
        lost = summary.reasons.get(LOST, 0)
        cut = summary.cut_answers - lost
        return {"whole": summary.truncated - cut, "cut": cut, "lost": lost}

    def to_json(self) -> dict[str, Any]:
        """Return plain data: the keys of `SplitSummary` and of this class; those that do not apply are null."""
        steps = self.steps_an_epoch
        return {
            **self.summary.to_json(),
            "trained_share": self.summary.trained_tokens / self.summary.tokens
            if self.summary.tokens
            else 0.0,
            "length": asdict(self.length) if self.length else None,
            "histogram": [asdict(one) for one in self.bins],
            "tokens_cut": self.tokens_cut,
            "answers_beyond_max_length": self.answers,
            "packed_share": self.packed_share,
            "padding_share": self.padding,
            "batch": asdict(self.batch) | {"total": self.batch.total} if self.batch else None,
            "steps_an_epoch": steps,
            "steps": self.batch and steps and _steps(self.batch, steps),
        }

    def lines(self, width: int) -> list[str]:
        """Tell the numbers, then draw the lengths."""
        told = [self.name]
        for name, text in _told(self):
            told += textwrap.wrap(
                text,
                max(width, 2 * INDENT),
                initial_indent=f"  {name:<{INDENT - 2}}",
                subsequent_indent=" " * INDENT,
                break_on_hyphens=False,
            )
        limit = self.summary.max_length
        beyond = "longer rows are cut" if self.tokens_cut else "longer rows are split"
        return [*told, "", *draw_histogram(self.bins, width=width, limit=limit, beyond=beyond)]


def stats_of(
    name: str,
    summary: SplitSummary,
    lengths: Lengths,
    prepared: Lengths,
    *,
    batch: PlannedBatch | None = None,
) -> SplitStats:
    """Work out the numbers of one split.

    Args:
        lengths: int32, tokens of each trained sample before truncation.
        prepared: int32, tokens of each row that the trainer sees.
        batch: of the training split; None for others.
    """
    capacity = len(prepared) * (summary.max_length or 0)
    padded = batch is not None and not summary.packed and not batch.padding_free and len(prepared) > 0
    return SplitStats(
        name=name,
        summary=summary,
        length=_spread(lengths),
        bins=bins_of(lengths, summary.max_length),
        tokens_cut=max(0, int(lengths.sum(dtype=np.int64)) - summary.tokens),
        batch=batch,
        packed_share=int(prepared.sum(dtype=np.int64)) / capacity if summary.packed and capacity else None,
        padding=_padding(prepared, batch) if batch and padded else None,
        steps_an_epoch=batch.steps_an_epoch(len(prepared)) if batch and len(prepared) else None,
    )


def _told(stats: SplitStats) -> Iterator[tuple[str, str]]:
    summary = stats.summary
    yield (
        "rows",
        f"{summary.rows_read:,} read: {summary.trained:,} trained whole, {summary.truncated:,} truncated,"
        f" {summary.dropped:,} dropped",
    )
    yield "shapes", _counts(summary.shapes)
    for reason, rows in sorted(summary.reasons.items(), key=lambda item: (-item[1], item[0])):
        yield "dropped", f"{count(rows, 'row')}: {reason}"
    trained = share(summary.trained_tokens, summary.tokens)
    yield "tokens", f"{summary.tokens:,}, of which {summary.trained_tokens:,} carry loss ({trained})"
    yield "loss on", _counts(summary.masks)
    if stats.length:
        found = stats.length
        yield (
            "length",
            f"median {found.p50:,}, mean {found.mean:,.0f}, p90 {found.p90:,}, p99 {found.p99:,}, from"
            f" {found.shortest:,} to {found.longest:,} tokens",
        )
    if summary.truncated or summary.cut_answers:
        fates = (("whole", "whole"), ("cut", "cut"), ("lost", "lost (these rows are dropped)"))
        told = [f"{stats.answers[kind]:,} {text}" for kind, text in fates if stats.answers[kind]]
        yield (
            "too long",
            f"{count(sum(stats.answers.values()), 'row')} beyond max_length {summary.max_length or 0:,}: answers"
            f" {', '.join(told)}; {count(stats.tokens_cut, 'token')} cut off",
        )
    yield from _told_of_batches(stats)
    if summary.special_text:
        yield "special text", f"{count(summary.special_text, 'row')} with content that spells a special token"
    if summary.differs:
        yield (
            "template",
            f"{count(summary.differs, 'row')} rendered otherwise than by the model's own template",
        )
    if summary.duplicates:
        yield "duplicates", f"{count(summary.duplicates, 'row')} as an earlier one of this split"
    if summary.duplicates_of_train:
        yield "duplicates", f"{count(summary.duplicates_of_train, 'row')} as one of the training split"


def _told_of_batches(stats: SplitStats) -> Iterator[tuple[str, str]]:
    summary, batch = stats.summary, stats.batch
    if stats.packed_share is not None:
        full = f"{100 * stats.packed_share:.1f}% full"
        yield "packing", f"{count(summary.rows, 'row')} of {summary.max_length or 0:,} tokens, {full}"
    if batch and stats.padding is not None:
        told = [
            f"{100 * part:.0f}% {ORDER_WORDS[order]}{' (this run)' if order == batch.sampling else ''}"
            for order, part in stats.padding.items()
        ]
        yield "padding", f"{', '.join(told)}; in micro-batches of {batch.micro_batch}"
    if batch and stats.steps_an_epoch:
        end = f"{_steps(batch, stats.steps_an_epoch):,} " + (
            "in all (max_steps)" if batch.max_steps else f"in {batch.epochs:g} epochs"
        )
        yield (
            "steps",
            f"{stats.steps_an_epoch:,} an epoch, {end}, of {count(batch.total, 'row')} = {batch.micro_batch} x"
            f" {batch.accumulation} accumulated x {batch.processes} {'process' if batch.processes == 1 else 'processes'}",
        )


def _counts(counted: Mapping[str, int]) -> str:
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} ({number:,})" for name, number in ordered) or "none"


def _spread(lengths: Lengths) -> Spread | None:
    if not len(lengths):
        return None
    low, p50, p90, p99, high = np.percentile(lengths, [0, 50, 90, 99, 100], method="higher").tolist()
    return Spread(
        shortest=low, mean=float(np.mean(lengths, dtype=np.float64)), p50=p50, p90=p90, p99=p99, longest=high
    )


def _padding(prepared: Lengths, batch: PlannedBatch) -> dict[str, float]:
    """Work out the share in a random order, grouped by length, and in the run's own."""
    return {
        order: padding_share(
            prepared,
            order,
            micro_batch=batch.micro_batch,
            accumulation=batch.accumulation,
            multiple_of=batch.pad_to_multiple_of,
        )
        for order in ORDERS
        if order != "sequential" or batch.sampling == order
    }


def _steps(batch: PlannedBatch, steps_an_epoch: int) -> int:
    """Count the optimizer steps of the run."""
    return batch.max_steps or math.ceil(batch.epochs * steps_an_epoch)


def _floor(number: int, by: int) -> int:
    return number // by


def _ceiling(number: int, by: int) -> int:
    return -(-number // by)
