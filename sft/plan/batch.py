"""Batch arithmetic: rows per optimizer step over all processes, divided exactly or refused."""

from __future__ import annotations

from dataclasses import dataclass

from sft.errors import UserError

DEFAULT_MICRO_BATCH = 8
"""transformers' per_device_train_batch_size."""


@dataclass(frozen=True, slots=True)
class Batch:
    """micro_batch x accumulation x processes = total."""

    micro_batch: int
    accumulation: int
    processes: int

    @property
    def total(self) -> int:
        """Rows per optimizer step over all processes."""
        return self.micro_batch * self.accumulation * self.processes


def divide(
    total: int | None,
    micro_batch: int | None,
    accumulation: int | None,
    processes: int,
    *,
    where: str | None = None,
    device_word: str = "processes",
) -> Batch:
    """Find the two factors that were not given.

    With only a total, the micro-batch is the largest divisor up to transformers' default of 8.

    Raises:
        UserError: the total cannot be had exactly.
    """
    if total is None:
        return Batch(micro_batch or DEFAULT_MICRO_BATCH, accumulation or 1, processes)
    parts = []
    if micro_batch is not None:
        parts.append(f"per_device_train_batch_size {micro_batch}")
    if accumulation is not None:
        parts.append(f"gradient_accumulation_steps {accumulation}")
    parts.append(f"{processes} {device_word}")
    unit = (micro_batch or 1) * (accumulation or 1) * processes
    exact = micro_batch is not None and accumulation is not None
    if total % unit or (exact and total != unit):
        below, above = total // unit * unit, (total // unit + 1) * unit
        choices = f"use {below} or {above}" if below else f"use {above}"
        raise UserError(
            f"total_train_batch_size {total} is not {'' if exact else 'a multiple of '}{unit} ({' x '.join(parts)})",
            where=where,
            fix=f"use {unit}, or leave gradient_accumulation_steps out" if exact else choices,
        )
    rest = total // unit
    if micro_batch is not None:
        return Batch(micro_batch, accumulation or rest, processes)
    micro = (
        rest
        if accumulation is not None
        else max(n for n in range(1, DEFAULT_MICRO_BATCH + 1) if rest % n == 0)
    )
    return Batch(micro, accumulation or rest // micro, processes)
