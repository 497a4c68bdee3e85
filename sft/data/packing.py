"""Which samples share a row. Numbers only: no tokens, no files, no order of training.

Best-fit decreasing: samples from the longest to the shortest, each into the fullest row that still has room for it.
Over the whole set at once, where TRL's `pack_dataset` looks at a thousand rows at a time.

Source:
    Ding et al., Fewer Truncations Improve Language Modeling, 2024 (arXiv 2404.10830), section 2; the bound of
    11/9 of the best possible is Johnson's (1973).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bins:
    """Samples laid into rows; row `b` holds `order[offsets[b]:offsets[b + 1]]`, the longest sample first.

    Rows come in the order in which they were opened, so by their longest sample: shuffle them before training.

    Attributes:
        order: int64, every sample once, row after row.
        offsets: int64, one more than there are rows.
    """

    order: Numbers
    offsets: Numbers

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class Pieces:
    """Stretches of samples, in the order of the samples: tokens `start` to `stop` of `sample`, all int64."""

    sample: Numbers
    start: Numbers
    stop: Numbers

    @property
    def lengths(self) -> Numbers:
        """Tokens of each piece."""
        return self.stop - self.start


class _Room:
    """Open rows by the space that is left in them."""

    def __init__(self) -> None:
        self.spaces: list[int] = []
        """The distinct spaces for which there is a row, ascending."""
        self.rows: dict[int, deque[Numbers]] = {}

    def tightest(self, length: int) -> int | None:
        """Return the smallest space that `length` fits into."""
        place = bisect_left(self.spaces, length)
        return self.spaces[place] if place < len(self.spaces) else None

    def put(self, space: int, rows: Numbers) -> None:
        if not space or not len(rows):
            return
        if space not in self.rows:
            insort(self.spaces, space)
            self.rows[space] = deque()
        self.rows[space].append(rows)

    def take(self, space: int, most: int) -> Numbers:
        """Remove up to `most` rows with this space, those that have had it longest."""
        chunks, taken, count = self.rows[space], [], 0
        while chunks and count < most:
            chunk = chunks.popleft()
            if count + len(chunk) > most:
                chunks.appendleft(chunk[most - count :])
                chunk = chunk[: most - count]
            taken.append(chunk)
            count += len(chunk)
        if not chunks:
            del self.rows[space]
            del self.spaces[bisect_left(self.spaces, space)]
        return taken[0] if len(taken) == 1 else np.concatenate(taken)


def _fill(room: _Room, rows: Numbers, space: int, length: int, left: int) -> Numbers:
    """Lay up to `left` samples of one length into rows of one space; return the row of each.

    The fullest row that fits is always the one just used, as long as it has room for another: a row is filled with
    this length before the next is begun.
    """
    each = space // length
    whole, rest = divmod(left, each)
    full, begun = rows[:whole], rows[whole : whole + 1]
    room.put(space - each * length, full)
    into = np.repeat(full, each)
    if rest and len(begun):
        room.put(space - rest * length, begun)
        into = np.concatenate([into, np.repeat(begun, rest)])
    return into


def pack(lengths: NDArray[np.integer[Any]], capacity: int) -> Bins:
    """Lay samples into as few rows of `capacity` tokens as best-fit decreasing finds.

    The same lengths always give the same rows; of equally long samples the earlier one is laid first.

    Args:
        lengths: tokens of each sample, 1 to `capacity`.
    Raises:
        ValueError: a sample is empty, or longer than a row.
    """
    lengths = np.asarray(lengths)
    if len(lengths) and not (int(lengths.min()) >= 1 and int(lengths.max()) <= capacity):
        raise ValueError(f"samples of {lengths.min()} to {lengths.max()} tokens for rows of {capacity}")
    longest_first = np.argsort(-lengths.astype(np.int64), kind="stable")
    row_of = np.empty(len(lengths), dtype=np.int64)
    """The row of each sample, in the order of `longest_first`."""
    room, rows, laid = _Room(), 0, 0
    distinct, counts = np.unique(lengths, return_counts=True)
    for length, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        end = laid + count
        while laid < end:
            space = room.tightest(length)
            most = -(-(end - laid) // ((space or capacity) // length))
            if space is None:
                space, taken = capacity, np.arange(rows, rows + most, dtype=np.int64)
                rows += most
            else:
                taken = room.take(space, most)
            into = _fill(room, taken, space, length, end - laid)
            row_of[laid : laid + len(into)] = into
            laid += len(into)
    offsets = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(row_of, minlength=rows), out=offsets[1:])
    return Bins(longest_first[np.argsort(row_of, kind="stable")].astype(np.int64), offsets)


def split_long(lengths: NDArray[np.integer[Any]], capacity: int) -> Pieces:
    """Cut samples into pieces of at most `capacity` tokens, of which only a sample's last is shorter.

    What `bfd_split` packs. Empty samples have no piece.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    counts = -(-lengths // capacity)
    sample = np.repeat(np.arange(len(lengths), dtype=np.int64), counts)
    first_piece = np.cumsum(counts) - counts
    start = (np.arange(len(sample), dtype=np.int64) - first_piece[sample]) * capacity
    return Pieces(sample, start, np.minimum(start + capacity, lengths[sample]))


def wrap(total_tokens: int, capacity: int) -> Numbers:
    """Return where rows begin and end when all tokens are cut every `capacity`, wherever samples end.

    What `wrapped` trains on; the last row is shorter where the tokens do not come out even.
    """
    return np.append(np.arange(0, total_tokens, capacity, dtype=np.int64), np.int64(total_tokens))
