"""FSDP2 over more ranks than a machine could start: rank 0 of them holds what its bill says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sft.config.kit import Strategy
from sft.plan.memory.job import Job
from sft.plan.memory.step import held_by
from sft.plan.model_shape import read_model_shape
from sft.plan.read_shape import read_shape
from sft.plan.weights import read_tensors
from tests.plan import memory_cases

LENGTH = 256


@pytest.mark.parametrize(
    ("family", "ranks", "checkpointing"),
    [
        ("llama", 8, False),
        *(
            pytest.param(family, ranks, again, marks=pytest.mark.slow)
            for family in ("llama", "qwen3")
            for ranks in (2, 8, 64)
            for again in (False, True)
            if (family, ranks, again) != ("llama", 8, False)
        ),
    ],
)
def test_a_rank_of_many_holds_what_its_bill_says(
    family: str, ranks: int, checkpointing: bool, tiny_model: Path, tmp_path: Path
) -> None:
    directory = memory_cases.write_model(family, tmp_path / family, tiny_model)
    words = [str(directory), str(ranks), str(LENGTH), str(checkpointing)]
    command = [sys.executable, "-m", "tests.plan.many_ranks", *words]
    measured = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    shape = read_shape(read_model_shape(str(directory)), read_tensors(directory))
    assert shape is not None
    job = Job(
        device="cpu",
        rows=1,
        length=LENGTH,
        checkpointing=checkpointing,
        strategy=Strategy.FSDP2,
        processes=ranks,
    )
    assert held_by(shape, job).peak == pytest.approx(measured, rel=0.005)
