"""What a prepared split is in numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sft.data.ledger import SplitSummary
from sft.data.stats import PlannedBatch, stats_of

SUMMARY = SplitSummary(
    rows_read=12,
    trained=7,
    truncated=2,
    dropped=3,
    cut_answers=2,
    tokens=540,
    trained_tokens=135,
    rows=9,
    max_length=100,
    special_text=1,
    duplicates=2,
    reasons={"answer lost to max_length": 1, "empty answer": 2},
    shapes={"messages": 12},
    masks={"generation markers": 9},
)
LENGTHS = np.array([20, 30, 40, 50, 60, 70, 70, 150, 250], dtype=np.int32)
PREPARED = np.minimum(LENGTHS, 100)
BATCH = PlannedBatch(micro_batch=2, accumulation=2, processes=2, epochs=3)


def test_the_numbers_are_told_in_lines_and_drawn() -> None:
    assert stats_of("train", SUMMARY, LENGTHS, PREPARED, batch=BATCH).lines(80) == [
        "train",
        "  rows          12 read: 7 trained whole, 2 truncated, 3 dropped",
        "  shapes        messages (12)",
        "  dropped       2 rows: empty answer",
        "  dropped       1 row: answer lost to max_length",
        "  tokens        540, of which 135 carry loss (25%)",
        "  loss on       generation markers (9)",
        "  length        median 60, mean 82, p90 250, p99 250, from 20 to 250 tokens",
        "  too long      3 rows beyond max_length 100: answers 1 whole, 1 cut, 1 lost",
        "                (these rows are dropped); 200 tokens cut off",
        "  padding       24% in random order (this run), 17% with",
        "                train_sampling_strategy: group_by_length; in micro-batches of 2",
        "  steps         2 an epoch, 6 in 3 epochs, of 8 rows = 2 x 2 accumulated x 2",
        "                processes",
        "  special text  1 row with content that spells a special token",
        "  duplicates    2 rows as an earlier one of this split",
        "",
        "   tokens  rows",
        "     1-20     1  " + "█" * 31 + "▌",
        "    21-40     2  " + "█" * 63,
        "    41-60     2  " + "█" * 63,
        "    61-80     2  " + "█" * 63,
        "   81-100     0",
        "  ── max_length 100 ── longer rows are cut",
        "  101-120     0",
        "  121-140     0",
        "  141-160     1  " + "█" * 31 + "▌",
        "  161-180     0",
        "  181-200     0",
        "  201-220     0",
        "  221-240     0",
        "  241-260     1  " + "█" * 31 + "▌",
    ]  # fmt: skip


def test_the_numbers_are_plain_data_for_programs() -> None:
    document = stats_of("train", SUMMARY, LENGTHS, PREPARED, batch=BATCH).to_json()
    assert json.loads(json.dumps(document)) == document
    histogram, padding = document.pop("histogram"), document.pop("padding_share")
    assert sum(one["rows"] for one in histogram) == 9
    assert set(histogram[0]) == {"low", "high", "rows"}
    assert set(padding) == {"random", "group_by_length"}
    assert document == {
        **SUMMARY.to_json(),
        "trained_share": 0.25,
        "length": {"shortest": 20, "mean": pytest.approx(82.222, abs=1e-3), "p50": 60, "p90": 250, "p99": 250, "longest": 250},
        "tokens_cut": 200,
        "answers_beyond_max_length": {"whole": 1, "cut": 1, "lost": 1},
        "packed_share": None,
        "batch": {
            "micro_batch": 2, "accumulation": 2, "processes": 2, "epochs": 3, "max_steps": None, "drop_last": False,
            "sampling": "random", "pad_to_multiple_of": None, "padding_free": False, "total": 8,
        },
        "steps_an_epoch": 2,
        "steps": 6,
    }  # fmt: skip


def test_packed_rows_have_no_padding_but_are_not_quite_full() -> None:
    summary = replace(SUMMARY, packed=True, rows=6)
    stats = stats_of("train", summary, LENGTHS, np.full(6, 90, dtype=np.int32), batch=BATCH)
    assert stats.padding is None
    assert "  packing       6 rows of 100 tokens, 90.0% full" in stats.lines(80)


def test_rows_that_packing_splits_lose_nothing() -> None:
    summary = replace(SUMMARY, packed=True, truncated=0, cut_answers=0, reasons={}, tokens=740)
    stats = stats_of("train", summary, LENGTHS, PREPARED, batch=BATCH)
    assert stats.tokens_cut == 0
    assert "  ── max_length 100 ── longer rows are split" in stats.lines(80)
    assert not any("too long" in line for line in stats.lines(80))


def test_a_split_that_is_not_trained_has_no_steps() -> None:
    stats = stats_of("test", SUMMARY, LENGTHS, PREPARED)
    assert (stats.steps_an_epoch, stats.padding) == (None, None)
    assert stats.to_json()["steps"] is None


def test_a_split_of_no_rows_has_no_lengths() -> None:
    none = np.zeros(0, dtype=np.int32)
    stats = stats_of(
        "train", SplitSummary(rows_read=2, dropped=2, reasons={"empty answer": 2}), none, none, batch=BATCH
    )
    assert stats.lines(80) == [
        "train",
        "  rows          2 read: 0 trained whole, 0 truncated, 2 dropped",
        "  shapes        none",
        "  dropped       2 rows: empty answer",
        "  tokens        0, of which 0 carry loss (0%)",
        "  loss on       none",
        "",
    ]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "processes"), [(1, 1, 1), (2, 3, 1), (2, 1, 2), (3, 2, 4)]
)
@pytest.mark.parametrize("rows", [1, 11, 24, 25, 100])
def test_steps_are_counted_as_by_the_trainer(
    rows: int, micro_batch: int, accumulation: int, processes: int, drop_last: bool
) -> None:
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    batches = BatchSampler(range(rows), micro_batch, drop_last)
    loader = len(BatchSamplerShard(batches, num_processes=processes) if processes > 1 else batches)
    theirs = max(loader // accumulation + int(loader % accumulation > 0), 1)
    batch = PlannedBatch(
        micro_batch=micro_batch, accumulation=accumulation, processes=processes, drop_last=drop_last
    )
    assert batch.steps_an_epoch(rows) == theirs
