"""Best-fit decreasing over a whole set: nothing lost, nothing overfull, no more rows than TRL's."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data.packing import Bins, pack, split_long, wrap

SETS = st.integers(1, 96).flatmap(
    lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), max_size=300))
)


def rows_of(bins: Bins, lengths: list[int]) -> list[list[int]]:
    """The lengths in each row."""
    return [
        [lengths[sample] for sample in bins.order[start:stop]]
        for start, stop in zip(bins.offsets, bins.offsets[1:], strict=False)
    ]


@given(SETS)
def test_every_sample_is_in_exactly_one_row_and_no_row_is_overfull_or_empty(
    case: tuple[int, list[int]],
) -> None:
    capacity, lengths = case
    bins = pack(np.array(lengths, dtype=np.int32), capacity)
    assert sorted(bins.order.tolist()) == list(range(len(lengths)))
    rows = rows_of(bins, lengths)
    assert [row for row in rows if not row or sum(row) > capacity] == []
    assert (bins.order.dtype, bins.offsets.dtype, len(bins)) == (np.int64, np.int64, len(rows))


@given(SETS)
def test_no_two_rows_would_fit_into_one(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    totals = sorted(sum(row) for row in rows_of(pack(np.array(lengths, dtype=np.int64), capacity), lengths))
    assert len(totals) < 2 or totals[0] + totals[1] > capacity


def one_at_a_time(lengths: list[int], capacity: int) -> list[list[int]]:
    """The definition: the longest first, each into the fullest row that has room."""
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in rows if sum(row) + length <= capacity]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            rows.append([length])
    return rows


@given(SETS)
def test_laying_equal_lengths_together_fills_rows_as_one_at_a_time_does(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    packed = rows_of(pack(np.array(lengths, dtype=np.int64), capacity), lengths)
    assert sorted(map(sum, packed)) == sorted(map(sum, one_at_a_time(lengths, capacity)))


@pytest.mark.parametrize("seed", range(3))
def test_never_more_rows_than_trl(seed: int) -> None:
    from datasets import Dataset
    from trl import pack_dataset

    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(4.5, 0.8, 3500).astype(int), 1, 512)
    rows = {"input_ids": [[0] * length for length in lengths]}
    whole = pack(lengths, 512)
    for first, exact in ((1000, True), (3500, False)):
        theirs = pack_dataset(Dataset.from_dict({"input_ids": rows["input_ids"][:first]}), 512, "bfd")
        ours = len(pack(lengths[:first], 512))
        assert ours == len(theirs) if exact else ours <= len(theirs)
    assert lengths.sum() / (len(whole) * 512) > 0.99


def test_equally_long_samples_keep_their_order_and_rows_are_the_same_each_time() -> None:
    lengths = np.array([3, 5, 3, 5, 3, 2])
    bins = pack(lengths, 8)
    assert (bins.order.tolist(), bins.offsets.tolist()) == ([1, 0, 3, 2, 4, 5], [0, 2, 4, 6])
    generator = np.random.default_rng(0)
    many = generator.integers(1, 2048, 20_000)
    once, again = pack(many, 2048), pack(many.astype(np.int32).copy(), 2048)
    assert np.array_equal(once.order, again.order)
    assert np.array_equal(once.offsets, again.offsets)


def test_a_million_samples_take_seconds() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 1, 1_000_000).astype(int), 1, 8192)
    begin = time.process_time()
    pack(lengths, 8192)
    assert time.process_time() - begin < 5  # 0.3 on an idle core


@pytest.mark.parametrize("lengths", [[0, 3], [9], [-1]])
def test_what_is_no_sample_of_a_row_is_refused(lengths: list[int]) -> None:
    with pytest.raises(
        ValueError, match=f"^samples of {min(lengths)} to {max(lengths)} tokens for rows of 8$"
    ):
        pack(np.array(lengths), 8)


def test_nothing_packs_into_nothing() -> None:
    bins = pack(np.array([], dtype=np.int64), 8)
    assert (len(bins), bins.order.tolist(), bins.offsets.tolist()) == (0, [], [0])


@given(st.integers(1, 16), st.lists(st.integers(0, 100), max_size=50))
def test_long_samples_are_cut_into_pieces_that_join_again(capacity: int, lengths: list[int]) -> None:
    pieces = split_long(np.array(lengths, dtype=np.int64), capacity)
    tokens = [
        (sample, token)
        for sample, start, stop in zip(
            pieces.sample.tolist(), pieces.start.tolist(), pieces.stop.tolist(), strict=True
        )
        for token in range(start, stop)
    ]
    assert tokens == [(sample, token) for sample, length in enumerate(lengths) for token in range(length)]
    shorter = pieces.stop[pieces.lengths < capacity]
    assert pieces.lengths.max(initial=0) <= capacity
    assert np.array_equal(
        shorter, np.array(lengths, dtype=np.int64)[pieces.sample[pieces.lengths < capacity]]
    )


def test_pieces_are_those_of_trl() -> None:
    from datasets import Dataset
    from trl import pack_dataset

    lengths = np.random.default_rng(1).integers(1, 40, 200)
    pieces = split_long(lengths, 8)
    theirs = pack_dataset(Dataset.from_dict({"input_ids": [[0] * n for n in lengths]}), 8, "bfd_split")
    assert sorted(pieces.lengths.tolist()) == sorted(n for row in theirs["seq_lengths"] for n in row)
    assert len(pack(pieces.lengths, 8)) == len(theirs)


@pytest.mark.parametrize(
    ("total", "offsets"), [(0, [0]), (3, [0, 3]), (4, [0, 4]), (5, [0, 4, 5]), (12, [0, 4, 8, 12])]
)
def test_wrapping_cuts_every_so_many_tokens(total: int, offsets: list[int]) -> None:
    assert wrap(total, 4).tolist() == offsets
