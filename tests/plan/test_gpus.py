"""GPUs by name, by memory, and as a driver names them."""

from __future__ import annotations

import pytest

from sft.errors import Problem, UserError
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


AS_MEMORY = "or give its memory, as 24GiB"
AUTO = "or auto for this machine's"
NEITHER = "is neither a GPU that the kit knows nor an amount of memory"
ALL = f"one of {', '.join(GPUS)}; or its memory, as 24GiB; {AUTO}"
BOUNDS = "from 1GiB to 1024GiB, as 24GiB; or the GPU's name"


@pytest.mark.parametrize(
    ("word", "what", "fix"),
    [
        ("h1000", f"h1000 {NEITHER}", f"did you mean h100-80g (or h100-pcie-80g, h100-94g)? {AS_MEMORY}; {AUTO}"),
        ("h100", "h100 may be one of several GPUs",
         f"did you mean h100-80g (or h100-pcie-80g, h100-94g)? {AS_MEMORY}; {AUTO}"),
        ("NVIDIA A100", "NVIDIA A100 may be one of several GPUs",
         f"did you mean a100-80g (or a100-40g)? {AS_MEMORY}; {AUTO}"),
        ("L40", f"L40 {NEITHER}", f"did you mean l40s-48g? {AS_MEMORY}; {AUTO}"),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", f"NVIDIA A100-SXM4-80GB MIG 1g.10gb {NEITHER}", ALL),
        ("mi300x", f"mi300x {NEITHER}", ALL),
        (" ", "no GPU is named", ALL),
        ("0GiB", "no GPU has 0GiB of memory", BOUNDS),
        ("0.4MiB", "no GPU has 0.4MiB of memory", BOUNDS),
        ("1025GiB", "no GPU has 1025GiB of memory", BOUNDS),
        (f"{'9' * 400}GiB", f"no GPU has {'9' * 400}GiB of memory", BOUNDS),
    ],
)  # fmt: skip
def test_another_word_is_refused_with_what_there_is(word: str, what: str, fix: str) -> None:
    with pytest.raises(UserError) as refusal:
        gpu_named(word)
    assert [*refusal.value.problems] == [Problem(what, "--gpu", fix)]


def test_a_run_file_is_not_told_of_a_flags_word() -> None:
    with pytest.raises(UserError) as refusal:
        gpu_named("L40", "run.yaml:3")
    assert [*refusal.value.problems] == [
        Problem(f"L40 {NEITHER}", "run.yaml:3", f"did you mean l40s-48g? {AS_MEMORY}")
    ]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80g"),
        ("NVIDIA H100 PCIe", "h100-pcie-80g"),
        ("H100-94GB", "h100-94g"),
        ("a100 40gb", "a100-40g"),
        ("l4", "l4-24g"),
        ("A10", "a10-24g"),
        ("rtx 4090", "rtx4090-24g"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada-48g"),
    ],
)
def test_a_drivers_name_is_taken_where_it_can_be_one_gpu_alone(word: str, name: str) -> None:
    assert gpu_named(word) == GPUS[name]


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
        ("NVIDIA A100-PCIE-40GB", 40960, "a100-40g"),
        ("NVIDIA RTX A6000", 49140, "a6000-48g"),
        ("NVIDIA GH200 480GB", 97871, "gh200-96g"),
    ],
)
def test_what_a_driver_names_has_the_speed_of_its_kind(name: str, mib: int, like: str) -> None:
    seen = gpu_seen(name, mib << 20)
    assert (seen.memory_mib, seen.tflops) == (mib, GPUS[like].tflops)


@pytest.mark.parametrize(
    "name", ["NVIDIA Quadro P400", "NVIDIA T400", "NVIDIA L40", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"]
)
def test_of_an_unknown_one_and_of_a_slice_only_the_memory_is_known(name: str) -> None:
    assert not gpu_seen(name, 2 << 30).is_timed
