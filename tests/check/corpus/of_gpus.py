"""Broken setups: drivers, builds of torch, GPUs that are hidden, taken, cut or mixed.

The cards are stand-ins (tests/check/nvml.py); torch's version.py is a real file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.check.corpus.bench import Bench, Broken
from tests.check.nvml import GIB, Card, NVMLError, Slice, seen

A100 = Card("NVIDIA A100-SXM4-40GB", 40 * GIB, (8, 0))
H100 = Card()


def with_torch(bench: Bench, version: str, cuda: str | None) -> None:
    """Have a torch of another build installed, as far as its files say."""
    directory = bench.directory / "site" / "torch"
    directory.mkdir(parents=True)
    (directory / "version.py").write_text(
        f"from typing import Optional\n__version__ = '{version}'\ndebug = False\ncuda: Optional[str] = {cuda!r}\n"
    )
    stand_in(bench, "torch", directory)


def stand_in(bench: Bench, package: str, directory: Path) -> None:
    """Have a package lie in another directory."""
    from sft.check import distributions
    from sft.check.checks import kernels

    found = distributions.package_directory

    def look(name: str) -> Path | None:
        return directory if name == package else found(name)

    bench.monkeypatch.setattr(distributions, "package_directory", look)
    bench.monkeypatch.setattr(kernels, "package_directory", look)


def on(
    *cards: Card, torch: str = "2.9.0+cu128", cuda: str = "12.8", **settings: Any
) -> Callable[[Bench], object]:
    """Return what puts a run on some cards."""

    def build(bench: Bench) -> None:
        shown(bench, *cards)
        with_torch(bench, torch, cuda)
        bench.settings.update(settings)

    return build


def shown(bench: Bench, *cards: Card, visible: str | None = None, **driver: Any) -> None:
    """Show some cards, all of them or those that CUDA_VISIBLE_DEVICES lists."""
    bench.monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        bench.variable("CUDA_VISIBLE_DEVICES", visible)
    bench.hardware = seen(bench.monkeypatch, cards, **driver)


def driver_was_updated(bench: Bench) -> None:
    bench.monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    bench.hardware = seen(bench.monkeypatch, refusal=NVMLError("Driver/Library Version Mismatch"))


def driver_is_old(bench: Bench) -> None:
    shown(bench, A100, driver="470.86", cuda=11040)
    with_torch(bench, "2.9.0+cu128", "12.8")


def torch_for_the_cpu(bench: Bench) -> None:
    shown(bench, H100)
    with_torch(bench, "2.9.0+cpu", None)


def listed(visible: str, *cards: Card, **launch: Any) -> Callable[[Bench], object]:
    def build(bench: Bench) -> None:
        shown(bench, *cards, visible=visible)
        with_torch(bench, "2.9.0+cu128", "12.8")
        bench.launch(**launch)

    return build


def chosen(gpu_ids: str, *cards: Card, visible: str | None = None) -> Callable[[Bench], object]:
    def build(bench: Bench) -> None:
        shown(bench, *cards, visible=visible)
        with_torch(bench, "2.9.0+cu128", "12.8")
        bench.launch(gpu_ids=gpu_ids)

    return build


BROKEN = (
    Broken(
        "the driver was updated, and the machine not started again",
        "https://github.com/NVIDIA/ubuntu-packaging-nvidia-driver/issues/3",
        "the NVIDIA driver does not answer: Driver/Library Version Mismatch; the run would train on the CPU",
        "GPUs",
        driver_was_updated,
    ),
    Broken(
        "the driver is too old for torch",
        "https://github.com/lllyasviel/Fooocus/issues/1313",
        "this torch is built for CUDA 12.8, and driver 470.86 runs CUDA 11.4 at most",
        "GPUs",
        driver_is_old,
    ),
    Broken(
        "torch for the CPU on a machine with GPUs",
        "https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix/issues/2",
        "this torch is built for the CPU alone, and a GPU is to be trained on",
        "GPUs",
        torch_for_the_cpu,
    ),
    Broken(
        "an empty CUDA_VISIBLE_DEVICES",
        "https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables",
        "CUDA_VISIBLE_DEVICES='' hides all 2 GPUs of this machine: the run would train on the CPU",
        "GPUs",
        listed("", H100, H100),
    ),
    Broken(
        "GPUs are asked for and hidden",
        "https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables",
        "CUDA_VISIBLE_DEVICES='-1' hides the only GPU of this machine",
        "GPUs",
        listed("-1", H100, gpus_per_node=1),
    ),
    Broken(
        "more GPUs listed than there are",
        "https://github.com/OpenBMB/MiniCPM-V/issues/356",
        "CUDA_VISIBLE_DEVICES=0,1,2,3: there is no GPU '2' here, and CUDA shows none from there on: 2 of 4",
        "GPUs",
        listed("0,1,2,3", H100, Card()),
    ),
    Broken(
        "a GPU listed twice",
        "https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables",
        "CUDA_VISIBLE_DEVICES=0,0 names a GPU twice, and CUDA shows none at all then",
        "GPUs",
        listed("0,0", H100, Card()),
    ),
    Broken(
        "gpu_ids of another machine",
        "https://github.com/RUCAIBox/TextBox/issues/343",
        "gpu_ids 2,3: 2, 3 are no GPUs of this machine, which has 2",
        "GPUs",
        chosen("2,3", H100, Card()),
    ),
    Broken(
        "gpu_ids beside CUDA_VISIBLE_DEVICES",
        "https://github.com/lich99/ChatGLM-finetune-LoRA/issues/16",
        "gpu_ids 0,1 counts all GPUs of the machine: CUDA_VISIBLE_DEVICES=2,3 has no effect beside it",
        "GPUs",
        chosen("0,1", H100, Card(), Card(), Card(), visible="2,3"),
    ),
    Broken(
        "another process has most of the GPU's memory",
        "https://github.com/hyintell/BLOOM-fine-tuning/issues/3",
        f"60.0 GiB of 80.0 GiB are taken already: pid {os.getpid()} (",
        "GPUs",
        on(Card(taken=60 * GIB, processes={os.getpid(): 60 * GIB})),
    ),
    Broken(
        "another process has all of it",
        "https://github.com/hyintell/BLOOM-fine-tuning/issues/3",
        "are taken already; the weights alone take",
        "GPUs",
        on(Card(taken=80 * GIB - 1000)),
    ),
    Broken(
        "a GPU in exclusive mode that somebody holds",
        "https://github.com/pytorch/pytorch/issues/3871",
        "the GPU's compute mode is exclusive to one process, and is held by pid 4194304",
        "GPUs",
        on(Card(mode=3, processes={4194304: None})),
    ),
    Broken(
        "a slice of MIG taken for a GPU",
        "https://github.com/pytorch/pytorch/issues/102715",
        "GPU 0 is cut by MIG: the run gets one slice, NVIDIA A100-SXM4-40GB MIG 1g.5gb, of 5.0 GiB",
        "GPUs",
        on(Card(slices=(Slice(), Slice(uuid="MIG-other")))),
    ),
    Broken(
        "MIG is on, and no slice was made",
        "https://github.com/pytorch/pytorch/issues/131650",
        "the only GPU of this machine is cut by MIG, and there is no slice",
        "GPUs",
        lambda bench: shown(bench, Card(slices=())),
    ),
    Broken(
        "GPUs of two kinds",
        "https://github.com/pytorch/examples/issues/343",
        "the GPUs are not alike: every step waits for the slowest",
        "GPUs",
        on(H100, A100),
    ),
)
