"""The GPUs of this machine can be used: driver, build of torch, which are visible, what is free on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sft.check.distributions import TorchBuild, torch_build
from sft.check.filesystem import gib
from sft.check.finding import Finding, error, note, warning
from sft.check.subject import Subject
from sft.errors import ExitCode
from sft.plan.hardware import COMPUTE_MODES, Gpu

NAME = "GPUs"
COST = "what the driver says, and torch/version.py"
NEEDS = "this machine"

MINIMUM_DRIVERS = {11: "450", 12: "525", 13: "580"}
"""CUDA's first number -> the oldest driver that runs it.

Source:
    docs.nvidia.com/deploy/cuda-compatibility, "Minor Version Compatibility", table 1.
"""
OLDEST_CUDA = 12
"""The oldest that the torch which the kit needs is built for."""
TAKEN_SHARE = 0.05
"""What may be taken of a GPU's memory without a word: a desktop, a monitor, an idle context."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


def look(subject: Subject) -> Iterator[Finding]:
    """Say why GPUs that are here would not be used, or not as they are meant to."""
    launch = subject.config.launch
    if launch.device == "cpu" or subject.config.training.use_cpu:
        return
    hardware = subject.hardware
    if hardware.refusal is not None:
        yield from _refused(subject, hardware.refusal)
    elif not hardware.gpus:
        yield from _hidden(subject)
    elif subject.plan is not None and subject.plan.device == "gpu" and hardware.devices:
        used = _used(subject)
        yield from _listed(subject)
        if not launch.wrap:  # in a container, another torch counts
            yield from _of_torch(subject, torch_build())
        yield from _of_slices(subject, used)
        for gpu in used:
            yield from _taken(gpu, subject)
        yield from _mixed(used, subject)


def _wants(subject: Subject) -> bool:
    launch = subject.config.launch
    return launch.device == "gpu" or launch.gpus_per_node is not None or launch.gpu_ids is not None


def _refused(subject: Subject, refusal: str) -> Iterator[Finding]:
    """Tell a driver that does not answer. One that is not loaded is no news on a machine without GPUs."""
    what = f"the NVIDIA driver does not answer: {refusal}"
    fix = "look at `nvidia-smi`; after an update of the driver, the machine has to be started again"
    if _wants(subject):
        yield error(what, "the driver", fix, exit_code=ExitCode.ENVIRONMENT)
    elif "not loaded" not in refusal.lower():
        yield warning(f"{what}; the run would train on the CPU", "the driver", fix)


def _hidden(subject: Subject) -> Iterator[Finding]:
    hardware, listed = subject.hardware, subject.environment.get(VISIBLE)
    if not hardware.present:
        return
    many = f"all {hardware.present} GPUs" if hardware.present > 1 else "the only GPU"
    if listed is None:
        what = f"{many} of this machine {'are' if hardware.present > 1 else 'is'} cut by MIG, and there is no slice"
        where, fix = "nvidia-smi -L", "ask for a slice, or have MIG switched off: sudo nvidia-smi -mig 0"
    else:
        what, where = f"{VISIBLE}={listed!r} hides {many} of this machine", VISIBLE
        fix = f"unset {VISIBLE}, or list GPUs that `nvidia-smi -L` shows"
    if _wants(subject):
        yield error(what, where, fix, exit_code=ExitCode.ENVIRONMENT)
    else:
        fix = f"{fix}; or say that it is meant: launch.device: cpu"
        yield warning(f"{what}: the run would train on the CPU", where, fix)


def _used(subject: Subject) -> list[Gpu]:
    """Return the devices that the processes get: the first ones, or those of gpu_ids."""
    assert subject.plan is not None
    devices = subject.hardware.devices
    numbers = _numbers(subject.plan.gpu_ids)
    if numbers is not None:
        chosen = [device for device in devices if device.index in numbers]
        return chosen or list(devices)
    return list(devices[: subject.plan.processes_per_node])


def _numbers(gpu_ids: str | None) -> list[int] | None:
    """Read `gpu_ids: 0,1`; None for all of them."""
    items = [item.strip() for item in (gpu_ids or "all").split(",")]
    return [int(item) for item in items] if all(item.isdigit() for item in items) else None


def _listed(subject: Subject) -> Iterator[Finding]:
    """Hold what is listed against what is there."""
    assert subject.plan is not None
    present, listed = subject.hardware.present, subject.environment.get(VISIBLE)
    numbers = _numbers(subject.plan.gpu_ids)
    if numbers is not None:
        absent = [number for number in numbers if number >= present]
        if absent:
            are = "are no GPUs" if len(absent) > 1 else "is no GPU"
            yield error(
                f"gpu_ids {subject.plan.gpu_ids}: {', '.join(map(str, absent))} {are} of this machine, which has {present}",
                "launch.gpu_ids",
                f"count from 0: 0 to {present - 1}",
                exit_code=ExitCode.ENVIRONMENT,
            )
        elif listed is not None and [item.strip() for item in listed.split(",")] != [str(n) for n in numbers]:
            yield warning(
                f"gpu_ids {subject.plan.gpu_ids} counts all GPUs of the machine: {VISIBLE}={listed} has no effect beside it",
                "launch.gpu_ids",
                f"remove one of them; to keep to the GPUs of {VISIBLE}: gpu_ids: {listed}",
            )
    elif listed is not None:
        items = [item.strip() for item in listed.split(",")]
        seen = subject.hardware.gpus
        if len(set(items)) < len(items):
            yield error(
                f"{VISIBLE}={listed} names a GPU twice, and CUDA shows none at all then",
                VISIBLE,
                "name each GPU once",
                exit_code=ExitCode.ENVIRONMENT,
            )
        elif seen < len(items) and not items[0].startswith("MIG-"):
            yield warning(
                f"{VISIBLE}={listed}: there is no GPU {items[seen]!r} here, and CUDA shows none from there on: {seen} of"
                f" {len(items)}",
                VISIBLE,
                "list GPUs that `nvidia-smi -L` shows",
            )


def _of_torch(subject: Subject, build: TorchBuild | None) -> Iterator[Finding]:
    """Hold the build of torch against the driver; what is missing altogether is told by the check of versions."""
    if build is None or build.is_rocm:
        return
    where = f"torch {build.version}"
    driver = subject.hardware.driver or "?"
    newest = subject.hardware.driver_cuda
    if build.cuda is None:
        tag = f"cu{newest[0]}{newest[1]}" if newest else "cu128"
        yield error(
            f"this torch is built for the CPU alone, and {_many(subject.hardware.gpus)} to be trained on",
            where,
            f"pip install --force-reinstall torch, with a build for CUDA that driver {driver} runs (at most {tag}):"
            " https://pytorch.org/get-started/locally; or set launch.device: cpu",
            exit_code=ExitCode.ENVIRONMENT,
        )
    elif newest is not None and newest[0] < build.cuda[0]:
        needed = MINIMUM_DRIVERS.get(build.cuda[0], "a newer one")
        other = f", or install a torch for CUDA {newest[0]}: https://pytorch.org/get-started/locally"
        other = other if newest[0] >= OLDEST_CUDA else ""
        yield error(
            f"this torch is built for CUDA {_dotted(build.cuda)}, and driver {driver} runs CUDA {_dotted(newest)} at most",
            where,
            f"update the driver to {needed} or later{other}",
            exit_code=ExitCode.ENVIRONMENT,
        )
    elif newest is not None and newest < build.cuda:
        yield note(
            f"torch is built for CUDA {_dotted(build.cuda)}, driver {driver} for {_dotted(newest)}: that works, but for"
            " kernels that are compiled at run time from the newer one"
        )


def _of_slices(subject: Subject, used: Sequence[Gpu]) -> Iterator[Finding]:
    """A slice is what it is: with its own memory, and the only device of a process."""
    if used and used[0].is_slice:
        gpu = used[0]
        yield warning(
            f"GPU {gpu.index} is cut by MIG: the run gets one slice, {gpu.name}, of {gib(gpu.memory_bytes)}, and a process"
            " sees no other",
            VISIBLE if VISIBLE in subject.environment else "nvidia-smi -L",
            f"for more memory or several GPUs, use whole ones; {VISIBLE}=MIG-... chooses the slice",
        )


def _taken(gpu: Gpu, subject: Subject) -> Iterator[Finding]:
    """Tell what others have on a GPU, and a mode that keeps this run from it."""
    where = f"GPU {gpu.index}, {gpu.name}"
    who = _who(gpu)
    free_up = "wait, end them if they are yours (kill PID), or name other GPUs: launch.gpu_ids"
    if gpu.compute_mode == 2 or (gpu.compute_mode and gpu.processes):
        held = "" if gpu.compute_mode == 2 else f", and is held by {who}"
        yield error(
            f"the GPU's compute mode is {COMPUTE_MODES.get(gpu.compute_mode, gpu.compute_mode)}{held}",
            where,
            free_up
            if held
            else "have it set back: sudo nvidia-smi -c DEFAULT; or name other GPUs: launch.gpu_ids",
            exit_code=ExitCode.ENVIRONMENT,
        )
        return
    if gpu.free_bytes is None:
        return
    taken = gpu.memory_bytes - gpu.free_bytes
    if taken <= TAKEN_SHARE * gpu.memory_bytes:
        return
    what = f"{gib(taken)} of {gib(gpu.memory_bytes)} are taken already" + (f": {who}" if who else "")
    needed = _least_bytes(subject)
    if needed > gpu.free_bytes:
        yield error(
            f"{what}; the weights alone take {gib(needed)}",
            where,
            free_up,
            exit_code=ExitCode.DOES_NOT_FIT,
        )
    else:
        yield warning(f"{what}; the run has what is left", where, free_up)


def _who(gpu: Gpu) -> str:
    """Name the processes on a GPU, as far as this user may see them."""
    import psutil  # type: ignore[import-untyped]  # it brings no types

    told = []
    for one in gpu.processes:
        size = f", {gib(one.memory_bytes)}" if one.memory_bytes else ""
        try:
            process = psutil.Process(one.pid)
            told.append(f"pid {one.pid} ({process.name()} of {process.username()}{size})")
        except (psutil.Error, KeyError):  # it ended, or lies in another container
            told.append(f"pid {one.pid}{f' ({size[2:]})' if size else ''}")
    return ", ".join(told)


def _least_bytes(subject: Subject) -> int:
    """Return the least that each process holds of the model on its GPU, without activations or an optimizer."""
    assert subject.plan is not None
    if subject.plan.strategy.shards_parameters or subject.tensors is None:
        return 0
    model = subject.config.model
    if model.load_in_4bit or model.load_in_8bit:
        return sum(tensor.count for tensor in subject.tensors) // (2 if model.load_in_4bit else 1)
    each = {"auto": None, "bfloat16": 2.0, "float16": 2.0}.get(str(model.dtype), 4.0)
    if "quantization_config" in subject.model_config:
        each = None  # packed, and left as they are
    return round(sum(tensor.count * (each or tensor.bytes_each) for tensor in subject.tensors))


def _mixed(used: Sequence[Gpu], subject: Subject) -> Iterator[Finding]:
    kinds = {(gpu.name, gpu.memory_bytes) for gpu in used}
    if len(kinds) < 2:
        return
    told = ", ".join(f"GPU {gpu.index} {gpu.name} ({gib(gpu.memory_bytes)})" for gpu in used)
    order = ""
    if subject.environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        order = "; CUDA counts the fastest first: CUDA_DEVICE_ORDER=PCI_BUS_ID counts as here"
    yield warning(
        f"the GPUs are not alike: every step waits for the slowest, and the smallest sets the batch ({told})",
        "the GPUs of this machine",
        f"name those that are alike: launch.gpu_ids{order}",
    )


def _many(count: int) -> str:
    return f"{count} GPUs are" if count > 1 else "a GPU is"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
