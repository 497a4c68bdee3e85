"""`save_total_limit`: the newest and the best always stay."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sft.checkpoint.find import directories
from sft.checkpoint.keep import rotate, superfluous
from tests.checkpoint.made import make, run_in


def test_the_oldest_go() -> None:
    assert superfluous([10, 30, 20, 40], 2, None) == [10, 20]
    assert superfluous([10, 20], 2, None) == []
    assert superfluous([10, 20, 30], None, None) == []
    assert superfluous([], 1, 7) == []


def test_the_best_stays_in_the_place_of_the_next_newest() -> None:
    assert superfluous([10, 20, 30, 40], 2, 10) == [20, 30]
    assert superfluous([10, 20, 30], 1, 10) == [20]
    assert superfluous([10, 20, 30], 1, 30) == [10, 20]
    assert superfluous([20, 30], 1, 10) == [20]


@given(st.lists(st.integers(1, 50), unique=True), st.integers(1, 6), st.one_of(st.none(), st.integers(1, 50)))
def test_what_stays(steps: list[int], limit: int, best: int | None) -> None:
    gone = superfluous(steps, limit, best)
    kept = set(steps) - set(gone)
    assert gone == sorted(set(steps) - kept)
    assert best not in gone
    if steps:
        assert max(steps) in kept
        assert len(kept) == min(len(steps), max(limit, len({max(steps), best} & set(steps))))


def test_they_are_deleted_under_another_name(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    for step in (10, 20, 30):
        make(run.output_dir, step)
    assert rotate(run, 1, 10) == [20]
    assert [path.name for path in directories(run.output_dir)] == ["checkpoint-10", "checkpoint-30"]
    assert list(run.staging.iterdir()) == []
