"""The share of padding, against transformers' own order."""

from __future__ import annotations

import numpy as np
import pytest

from sft.data.padding import grouped_by_length, padding_share


def of(*lengths: int) -> np.ndarray:
    return np.array(lengths, dtype=np.int32)


def test_a_micro_batch_is_padded_to_its_longest_row() -> None:
    # 1 3 | 2 2 | 5: padded to 3 + 3, 2 + 2, 5.
    assert padding_share(of(1, 3, 2, 2, 5), "sequential", micro_batch=2) == pytest.approx(2 / 15)
    assert padding_share(of(1, 3, 2, 2, 5), "sequential", micro_batch=1) == 0
    assert padding_share(of(1, 3, 2, 2, 5), "sequential", micro_batch=2, multiple_of=4) == pytest.approx(
        11 / 24
    )
    assert padding_share(of(), "random", micro_batch=2) == 0


def test_grouping_leaves_less_padding_than_a_random_order() -> None:
    lengths = np.random.default_rng(1).lognormal(5, 1, 2000).astype(np.int32) + 1
    random = padding_share(lengths, "random", micro_batch=8)
    grouped = padding_share(lengths, "group_by_length", micro_batch=8)
    assert random > 0.5
    assert grouped < random / 4


@pytest.mark.parametrize(("rows", "batch"), [(1, 4), (7, 4), (64, 4), (1000, 8), (1003, 2)])
def test_rows_are_grouped_as_transformers_groups_them(
    rows: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    lengths = np.random.default_rng(rows).integers(1, 500, rows).astype(np.int32)
    shuffled = np.random.default_rng(2).permutation(rows)
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: torch.from_numpy(shuffled.copy()))
    theirs = get_length_grouped_indices(lengths.tolist(), batch)
    assert grouped_by_length(lengths, shuffled, batch).tolist() == theirs
