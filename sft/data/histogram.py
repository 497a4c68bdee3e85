"""Lengths in bins, drawn with bars as wide as the terminal allows. Numbers in, lines out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

MOST_BINS = 14
SKEWED = 8
"""The longest is more than so many times the median: bins then double instead of being equally wide."""
EIGHTHS = " ▏▎▍▌▋▊▉█"
LEAST_BAR = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """How many rows have from `low` to `high` tokens, both included."""

    low: int
    high: int
    rows: int

    @property
    def label(self) -> str:
        """Name the bin."""
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}-{self.high:,}"


def bins_of(lengths: np.ndarray[Any, np.dtype[np.int32]], limit: int | None = None) -> list[Bin]:
    """Count lengths in bins of round numbers; no bin holds both what fits into `limit` and what does not."""
    if not len(lengths):
        return []
    shortest, longest = int(lengths.min()), int(lengths.max())
    skewed = longest > SKEWED * float(np.median(lengths))
    edges = _doubling(shortest, longest) if skewed else _even(shortest, longest)
    if limit is not None and edges[0] <= limit < longest:
        edges = sorted({*edges, limit + 1})
    counts, _ = np.histogram(lengths, bins=np.array(edges))
    return [Bin(low, high - 1, int(rows)) for (low, high), rows in zip(pairwise(edges), counts, strict=True)]


def _doubling(shortest: int, longest: int) -> list[int]:
    """Put edges behind the powers of two: 5-8, 9-16, 17-32..."""
    first, last = (max(1, length - 1).bit_length() if length > 1 else 0 for length in (shortest, longest))
    return [
        0 if shortest == 0 else 1 + (1 << first >> 1),
        *(1 + (1 << power) for power in range(first, last + 1)),
    ]


def _even(shortest: int, longest: int) -> list[int]:
    """Space edges by the least of 1, 2, 5, 10, 20... that leaves no more than `MOST_BINS` bins."""
    span, scale, width = longest - shortest + 1, 1, 0
    while not width:
        width = next((n * scale for n in (1, 2, 5) if span <= n * scale * (MOST_BINS - 1)), 0)
        scale *= 10
    first, last = (shortest - 1) // width, -(-longest // width)
    return [max(0, 1 + edge * width) for edge in range(first, max(first + 1, last) + 1)]


def draw_histogram(
    bins: Sequence[Bin], *, width: int, limit: int | None = None, beyond: str = ""
) -> list[str]:
    """Draw one line a bin, and a line where `limit` lies; `beyond` says what happens to longer rows."""
    if not bins:
        return []
    labels = max(len("tokens"), *(len(one.label) for one in bins))
    counts = max(len("rows"), *(len(f"{one.rows:,}") for one in bins))
    room = max(LEAST_BAR, width - labels - counts - 6)
    most = max(one.rows for one in bins)
    lines = [f"  {'tokens':>{labels}}  {'rows':>{counts}}"]
    marked = limit is None
    for one in bins:
        if limit is not None and not marked and one.low > limit:
            lines.append(_mark(limit, beyond))
            marked = True
        lines.append(f"  {one.label:>{labels}}  {one.rows:>{counts},}  {_bar(one.rows, most, room)}".rstrip())
    if limit is not None and not marked:
        lines.append(_mark(limit, ""))
    return lines


def _mark(limit: int, beyond: str) -> str:
    return f"  ── max_length {limit:,} ──" + (f" {beyond}" if beyond else "")


def _bar(rows: int, most: int, room: int) -> str:
    """Draw a bar in eighths of a character; what is there is seen, however little."""
    eighths = max(1, round(8 * room * rows / most)) if rows else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
