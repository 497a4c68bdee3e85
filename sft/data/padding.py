"""How much of an epoch's micro-batches is padding, by the order in which rows come. No torch.

The orders are those of transformers' samplers, with a shuffle of our own: the share is that of an epoch like
the run's, not of the very epoch.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

Order = Literal["random", "sequential", "group_by_length"]
"""The values of `train_sampling_strategy` that are laid out here."""
ORDERS: tuple[Order, ...] = get_args(Order)
MOST_GROUPED = 50
"""Batches that are sorted together at most, as in transformers."""

Lengths = np.ndarray[Any, np.dtype[np.int32]]
Places = np.ndarray[Any, np.dtype[np.int64]]


def padding_share(
    lengths: Lengths,
    order: Order,
    *,
    micro_batch: int,
    accumulation: int = 1,
    multiple_of: int | None = None,
    seed: int = 0,
) -> float:
    """Return which part of all positions is padding, when each micro-batch is padded to its longest row."""
    if not len(lengths):
        return 0.0
    places: Places = np.arange(len(lengths))
    if order != "sequential":
        places = np.random.default_rng(seed).permutation(len(lengths))
    if order == "group_by_length":
        places = grouped_by_length(lengths, places, micro_batch * accumulation)
    ordered = lengths[places].astype(np.int64)
    starts = np.arange(0, len(ordered), micro_batch)
    longest = np.maximum.reduceat(ordered, starts)
    if multiple_of:
        longest = -(-longest // multiple_of) * multiple_of
    rows = np.diff(np.append(starts, len(ordered)))
    return float(1 - ordered.sum() / (longest * rows).sum())


def grouped_by_length(lengths: Lengths, shuffled: Places, batch: int) -> Places:
    """Sort shuffled rows by length within groups of batches, the longest row of all first.

    Args:
        batch: rows that one process takes for an optimizer step.
    Source:
        get_length_grouped_indices of transformers/trainer_pt_utils.py.
    """
    size = max(1, min(len(lengths) // (batch * 4), MOST_GROUPED)) * batch
    groups = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    sorted_groups = [group[np.argsort(-lengths[group], kind="stable")] for group in groups]
    longest = int(np.argmax([lengths[group[0]] for group in sorted_groups]))
    first, other = int(sorted_groups[0][0]), int(sorted_groups[longest][0])
    sorted_groups[0][0], sorted_groups[longest][0] = other, first
    return np.concatenate(sorted_groups)
