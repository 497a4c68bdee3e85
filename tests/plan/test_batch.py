"""Rows per optimizer step are divided exactly, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.errors import UserError
from sft.plan.batch import Batch, divide


@pytest.mark.parametrize(
    ("total", "micro", "accumulation", "processes", "batch"),
    [
        (None, None, None, 1, Batch(8, 1, 1)),
        (None, 2, None, 4, Batch(2, 1, 4)),
        (None, 2, 3, 4, Batch(2, 3, 4)),
        (64, None, None, 8, Batch(8, 1, 8)),
        (64, None, None, 2, Batch(8, 4, 2)),
        (14, None, None, 2, Batch(7, 1, 2)),
        (22, None, None, 2, Batch(1, 11, 2)),
        (64, 2, None, 8, Batch(2, 4, 8)),
        (64, None, 4, 8, Batch(2, 4, 8)),
        (64, 2, 4, 8, Batch(2, 4, 8)),
    ],
)
def test_what_was_not_given_is_found(
    total: int | None, micro: int | None, accumulation: int | None, processes: int, batch: Batch
) -> None:
    assert divide(total, micro, accumulation, processes) == batch


@pytest.mark.parametrize(
    ("total", "micro", "accumulation", "processes", "message"),
    [
        (64, 3, None, 8, "total_train_batch_size 64 is not a multiple of 24 (per_device_train_batch_size 3 x 8 GPUs)\n"
         "  where: run.yaml:14\n  fix:   use 48 or 72"),
        (4, None, None, 8, "total_train_batch_size 4 is not a multiple of 8 (8 GPUs)\n  where: run.yaml:14\n"
         "  fix:   use 8"),
        (64, None, 5, 4, "total_train_batch_size 64 is not a multiple of 20 (gradient_accumulation_steps 5 x 4 GPUs)\n"
         "  where: run.yaml:14\n  fix:   use 60 or 80"),
        (64, 2, 2, 8, "total_train_batch_size 64 is not 32 (per_device_train_batch_size 2 x "
         "gradient_accumulation_steps 2 x 8 GPUs)\n  where: run.yaml:14\n"
         "  fix:   use 32, or leave gradient_accumulation_steps out"),
    ],
)  # fmt: skip
def test_a_total_that_cannot_be_had_is_refused_with_the_nearest(
    total: int, micro: int | None, accumulation: int | None, processes: int, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        divide(total, micro, accumulation, processes, where="run.yaml:14", device_word="GPUs")
    assert str(caught.value) == message


@given(
    st.integers(1, 4096),
    st.none() | st.integers(1, 16),
    st.none() | st.integers(1, 16),
    st.integers(1, 64),
)
def test_a_division_is_exact_and_keeps_what_was_given(
    total: int, micro: int | None, accumulation: int | None, processes: int
) -> None:
    unit = (micro or 1) * (accumulation or 1) * processes
    possible = total == unit if micro and accumulation else total % unit == 0
    try:
        batch = divide(total, micro, accumulation, processes)
    except UserError:
        assert not possible
        return
    assert possible
    assert batch.total == total
    assert micro in (None, batch.micro_batch)
    assert accumulation in (None, batch.accumulation)
