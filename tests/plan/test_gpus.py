"""GPUs by name, by memory, and as a driver names them."""

from __future__ import annotations

import pytest

from sft.errors import UserError
from sft.plan.gpus import GPUS, gpu_named, gpu_seen


def test_a_gpu_is_known_by_its_name() -> None:
    assert gpu_named("A100-40G") == GPUS["a100-40g"]
    assert round(gpu_named("h100-80g").memory_bytes / 2**30, 1) == 79.6


@pytest.mark.parametrize(
    ("word", "mib"), [("24GiB", 24576), ("80GB", 76293), ("16384 MiB", 16384), ("40g", 40960)]
)
def test_a_gpu_may_be_an_amount_of_memory(word: str, mib: int) -> None:
    gpu = gpu_named(word)
    assert (gpu.memory_mib, gpu.is_timed) == (mib, False)


def test_another_word_is_refused_with_what_there_is() -> None:
    with pytest.raises(UserError) as refusal:
        gpu_named("h1000")
    (problem,) = refusal.value.problems
    assert problem.what == "h1000 is neither a GPU that the kit knows nor an amount of memory"
    assert problem.where == "--gpu"
    assert "h100-80g" in str(problem.fix)


@pytest.mark.parametrize(
    ("name", "mib", "like"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "h100-80g"),
        ("NVIDIA H100 PCIe", 81559, "h100-pcie-80g"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40g"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80g"),
        ("Tesla T4", 15360, "t4-16g"),
        ("Tesla V100-SXM2-32GB", 32768, "v100-32g"),
        ("NVIDIA GeForce RTX 4090", 24564, "rtx4090-24g"),
        ("NVIDIA L4", 23034, "l4-24g"),
        ("NVIDIA L40S", 46068, "l40s-48g"),
    ],
)
def test_what_a_driver_names_has_the_speed_of_its_kind(name: str, mib: int, like: str) -> None:
    seen = gpu_seen(name, mib << 20)
    assert (seen.memory_mib, seen.tflops) == (mib, GPUS[like].tflops)


@pytest.mark.parametrize("name", ["NVIDIA Quadro P400", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"])
def test_of_an_unknown_one_and_of_a_slice_only_the_memory_is_known(name: str) -> None:
    assert not gpu_seen(name, 2 << 30).is_timed
