"""Lengths in bins: nothing is lost, and the drawing fits the terminal."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data.histogram import MOST_BINS, Bin, bins_of, draw_histogram


def of(*lengths: int) -> np.ndarray:
    return np.array(lengths, dtype=np.int32)


@given(st.lists(st.integers(1, 50_000), min_size=1), st.one_of(st.none(), st.integers(1, 60_000)))
def test_every_row_is_in_one_bin(lengths: list[int], limit: int | None) -> None:
    bins = bins_of(of(*lengths), limit)
    assert len(bins) <= MOST_BINS + 4
    assert all(one.high + 1 == other.low for one, other in pairwise(bins))
    assert [one.rows for one in bins] == [
        sum(one.low <= length <= one.high for length in lengths) for one in bins
    ]
    assert sum(one.rows for one in bins) == len(lengths)
    if limit is not None and limit < max(lengths):
        assert not any(one.low <= limit < one.high for one in bins)


def test_bins_are_even_or_double_where_few_rows_are_very_long() -> None:
    assert [one.label for one in bins_of(of(300, 350, 1200))] == [
        "201-300", "301-400", "401-500", "501-600", "601-700", "701-800", "801-900", "901-1,000", "1,001-1,100",
        "1,101-1,200",
    ]  # fmt: skip
    assert [one.label for one in bins_of(of(9, 30, 30, 300))] == [
        "9-16",
        "17-32",
        "33-64",
        "65-128",
        "129-256",
        "257-512",
    ]
    assert bins_of(of()) == []
    assert bins_of(of(7, 7)) == [Bin(7, 7, 2)]


def test_what_is_longer_than_max_length_stands_below_a_mark() -> None:
    lengths = of(*[20] * 30, *[40] * 8, 100, 600)
    assert draw_histogram(bins_of(lengths, 80), width=60, limit=80, beyond="longer rows are cut") == [
        "     tokens  rows",
        "      17-32    30  " + "█" * 41,
        "      33-64     8  ██████████▉",
        "      65-80     0",
        "  ── max_length 80 ── longer rows are cut",
        "     81-128     1  █▍",
        "    129-256     0",
        "    257-512     0",
        "  513-1,024     1  █▍",
    ]


def test_a_max_length_that_all_rows_fit_into_is_marked_last() -> None:
    assert draw_histogram(bins_of(of(1, 2, 2), 1024), width=40, limit=1024, beyond="longer rows are cut") == [
        "  tokens  rows",
        "       1     1  ████████████▌"[:16] + "████████████",
        "       2     2  ████████████████████████",
        "  ── max_length 1,024 ──",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_the_longest_bar_fills_it(width: int) -> None:
    lines = draw_histogram(bins_of(of(*range(1, 5000)), 1024), width=width, limit=1024)
    assert max(map(len, lines)) == width
