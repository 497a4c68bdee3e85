"""Lay encoded rows out as the trainer sees them: in order, packed or one by one; and write them to Arrow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sft.data.packing import pack, split_long, wrap
from sft.data.settings import PrepareSettings

Numbers = np.ndarray[Any, np.dtype[np.int64]]
ROWS_PER_BATCH = 1024
NO_LOSS = -100
"""ignore_index of torch.nn.CrossEntropyLoss."""


@dataclass(frozen=True, slots=True)
class Layout:
    """R rows made of P pieces of encoded samples.

    Attributes:
        sample: int64, P: which sample a piece is of.
        start, stop: int64, P: its tokens, counted over all samples one after another.
        offsets: int64, R + 1: the pieces of row r are offsets[r] to offsets[r + 1].
        packed: samples share rows and are kept apart.
        mixed: samples share rows and are not (`wrapped`).
    """

    sample: Numbers
    start: Numbers
    stop: Numbers
    offsets: Numbers
    packed: bool
    mixed: bool = False

    def __len__(self) -> int:
        return len(self.offsets) - 1


def lay_out(lengths: Any, settings: PrepareSettings, role: str, order_seed: int | None) -> Layout:
    """Order and pack samples.

    Args:
        lengths: int32, the tokens of each sample in the order of the files.
        order_seed: shuffles the samples first, as a mixture asks for.
    """
    strategy, capacity = settings.strategy(role), settings.max_length
    count = len(lengths)
    edges = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(lengths, out=edges[1:])
    order = np.arange(count, dtype=np.int64)
    for seed in (order_seed, settings.shuffle_seed):
        if seed is not None:
            order = order[np.random.default_rng(seed).permutation(count)]
    if strategy is None:
        return Layout(
            order, edges[order], edges[order + 1], np.arange(count + 1, dtype=np.int64), packed=False
        )
    assert capacity is not None
    if strategy == "wrapped":
        return _wrapped(order, lengths, edges, capacity)
    if strategy == "bfd_split":
        pieces = split_long(lengths[order], capacity)
        sample = order[pieces.sample]
        start, stop = edges[sample] + pieces.start, edges[sample] + pieces.stop
    else:
        sample, start, stop = order, edges[order], edges[order + 1]
    bins = pack(stop - start, capacity)
    rows = np.arange(len(bins), dtype=np.int64)
    if settings.row_seed is not None:
        rows = np.random.default_rng(settings.row_seed).permutation(rows)
    sizes = np.diff(bins.offsets)[rows]
    offsets = np.zeros(len(bins) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    within = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], sizes)
    chosen = bins.order[np.repeat(bins.offsets[:-1][rows], sizes) + within]
    return Layout(sample[chosen], start[chosen], stop[chosen], offsets, packed=True)


def _wrapped(order: Numbers, lengths: Any, edges: Numbers, capacity: int) -> Layout:
    """Cut one stream of all tokens every `capacity`: a piece ends where its sample or its row does."""
    ends = np.cumsum(lengths[order].astype(np.int64))
    total = int(ends[-1]) if len(ends) else 0
    rows = wrap(total, capacity)
    cuts = np.unique(np.concatenate([[0], ends, rows]))
    begin, finish = cuts[:-1], cuts[1:]
    at = np.searchsorted(ends, begin, side="right")
    sample = order[at]
    start = edges[sample] + begin - (ends[at] - lengths[sample])
    offsets = np.searchsorted(begin, rows).astype(np.int64)
    return Layout(sample, start, start + finish - begin, offsets, packed=False, mixed=True)


def write_rows(directory: Path, role: str, layout: Layout, *, numbers: Any, files: Any) -> None:
    """Write `<role>.arrow` from `<role>.tokens` and `<role>.mask`, a batch of rows in memory at a time.

    Args:
        numbers, files: the row's number and the file of each sample, kept for `sft data show`.
    """
    columns = ["input_ids", "labels", *(["seq_lengths"] if layout.packed else []), "numbers", "files"]
    schema = pa.schema(
        [
            *(pa.field(name, pa.list_(pa.int64() if name == "numbers" else pa.int32())) for name in columns),
            pa.field("length", pa.int32()),
        ]
    )
    tokens = os.open(directory / f"{role}.tokens", os.O_RDONLY)
    mask = os.open(directory / f"{role}.mask", os.O_RDONLY)
    try:
        with open(directory / f"{role}.arrow", "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for first in range(0, max(len(layout), 1), ROWS_PER_BATCH):
                rows = layout.offsets[first : first + ROWS_PER_BATCH + 1]
                writer.write_batch(_batch(layout, rows, tokens, mask, numbers, files, schema))
    finally:
        os.close(tokens)
        os.close(mask)


def _batch(
    layout: Layout, rows: Numbers, tokens: int, mask: int, numbers: Any, files: Any, schema: pa.Schema
) -> pa.RecordBatch:
    low, high = int(rows[0]), int(rows[-1])
    start, stop = layout.start[low:high], layout.stop[low:high]
    sizes = stop - start
    edges = np.zeros(high - low + 1, dtype=np.int64)
    np.cumsum(sizes, out=edges[1:])
    ids = np.empty(edges[-1], dtype=np.int32)
    trained = np.empty(edges[-1], dtype=np.uint8)
    ids_bytes, mask_bytes = ids.data.cast("B"), trained.data
    for begin, end, at in zip(*_runs(start, stop, edges), strict=True):
        size = end - begin
        os.preadv(tokens, [ids_bytes[4 * at : 4 * (at + size)]], 4 * begin)
        os.preadv(mask, [mask_bytes[at : at + size]], begin)
    token_offsets = edges[rows - low].astype(np.int32)
    piece_offsets = (rows - low).astype(np.int32)
    sample = layout.sample[low:high]
    found = {
        "input_ids": _lists(token_offsets, ids),
        "labels": _lists(token_offsets, np.where(trained, ids, np.int32(NO_LOSS))),
        "seq_lengths": _lists(piece_offsets, sizes.astype(np.int32)),
        "numbers": _lists(piece_offsets, numbers[sample]),
        "files": _lists(piece_offsets, files[sample]),
        "length": _array(np.diff(token_offsets).astype(np.int32)),
    }
    return pa.record_batch([found[name] for name in schema.names], schema=schema)


def _runs(start: Numbers, stop: Numbers, edges: Numbers) -> tuple[list[int], list[int], list[int]]:
    """Join pieces that follow one another in the file, so that rows in their own order are read at once."""
    if not len(start):
        return [], [], []
    breaks = np.flatnonzero(start[1:] != stop[:-1]) + 1
    firsts = np.concatenate([[0], breaks])
    lasts = np.concatenate([breaks, [len(start)]]) - 1
    return start[firsts].tolist(), stop[lasts].tolist(), edges[firsts].tolist()


def _lists(offsets: Any, values: Any) -> pa.ListArray:
    return pa.ListArray.from_arrays(_array(offsets), _array(values))


def _array(values: Any) -> pa.Array:
    """Look at numbers as Arrow does, in place. `pyarrow.array` would import pandas first, to see that they are not its."""
    values = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
