"""A run that continues on another number of ranks trains the same rows and comes to the same losses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.checkpoint import exact
from tests.checkpoint.exact import SAVED, STEPS
from tests.training.launching import launch, succeeded

TOLERANCE = 5e-6
"""In nats: the sums are taken in another order. A step count that advances twice a step shows with 4e-5 at once."""
CASES = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in [
        ("full", "zero3", 2, 1),
        ("full", "zero3", 1, 2),
        ("full", "zero1", 2, 1),
        ("full", "zero2", 2, 1),
        ("lora", "zero2", 1, 2),
        ("lora", "zero3", 2, 1),
        ("lora", "ddp", 2, 1),
        ("full", "ddp", 1, 2),
        ("full", "fsdp2", 2, 1),
        ("lora", "fsdp2", 1, 2),
    ]
]


@pytest.mark.parametrize(("method", "strategy", "before", "after"), CASES)
def test_another_number_of_ranks_goes_on_with_the_same_rows(
    method: str, strategy: str, before: int, after: int, tiny_model: Path, tmp_path: Path
) -> None:
    data = exact.write_data(tmp_path)
    # Each rank draws its own dropout: without it the runs can be compared.
    plain = {"lora_dropout": 0.0} if method == "lora" else {"model_init_kwargs": {"attention_dropout": 0.0}}

    def run(ranks: int) -> dict[str, object]:
        laid = "single" if strategy == "ddp" and ranks == 1 else strategy
        return exact.settings(tiny_model, data, method, laid, **plain, launch={"processes_per_node": ranks})

    environment = exact.environment(strategy)
    whole = succeeded(launch(tmp_path / "whole", run(before), environment=environment))
    saved = f"checkpoint-{SAVED}"
    shutil.copytree(whole.run.output_dir / saved, tmp_path / "run" / saved)
    continued = succeeded(launch(tmp_path / "run", run(after), environment=environment))
    assert f"{saved} was saved by {before} ranks; laying it out for {after}" in continued.stderr
    assert len(continued.losses) == STEPS - SAVED
    assert continued.losses == pytest.approx(whole.losses[SAVED:], abs=TOLERANCE, rel=0)
    # What it saved itself is an ordinary checkpoint of its own number of ranks.
    again = succeeded(launch(tmp_path / "run", run(after), environment=environment))
    assert f"continuing from step {STEPS}: checkpoint-{STEPS}, " in again.stderr
