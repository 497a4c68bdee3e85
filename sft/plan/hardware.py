"""What this machine shows: GPUs through NVIDIA's management library, cores and memory. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

COMPUTE_MODES = {1: "exclusive to one thread", 2: "prohibited", 3: "exclusive to one process"}
"""Modes of a GPU that keep processes from it, as NVML numbers them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that computes on a GPU. Its memory is None where the driver does not tell it (in a container)."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device of CUDA: a GPU, or the slice of one that MIG cut. None is what the driver does not tell.

    Attributes:
        index: of the GPU on this machine, as `nvidia-smi` counts.
        capability: compute capability: (9, 0) is Hopper.
        compute_mode: of COMPUTE_MODES; 0 keeps nobody away.
        processes: what computes on it; of a slice, nothing is told.
    """

    index: int
    name: str
    memory_bytes: int
    free_bytes: int | None = None
    capability: tuple[int, int] | None = None
    is_slice: bool = False
    compute_mode: int = 0
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine.

    `gpu_names` and `gpu_memory_bytes` hold one entry a visible GPU.

    Attributes:
        devices: the visible GPUs in the same order; empty where nobody has looked (a batch job).
        present: how many GPUs the driver has, visible or not.
        driver: its version: 570.124.06.
        driver_cuda: the newest CUDA that it runs: (12, 8).
        refusal: what the driver said in place of an answer; None also where there is no driver at all.
    """

    gpu_names: tuple[str, ...]
    gpu_memory_bytes: tuple[int, ...]
    cpu_cores: int
    memory_bytes: int
    devices: tuple[Gpu, ...] = ()
    present: int = 0
    driver: str | None = None
    driver_cuda: tuple[int, int] | None = None
    refusal: str | None = None

    @property
    def gpus(self) -> int:
        """How many GPUs a process started here would see."""
        return len(self.gpu_names)


def asked_for(gpus: int, cpu_cores: int) -> Hardware:
    """Return machines as a batch job asks for them, which nobody has seen yet; their memory is not known."""
    return Hardware(("",) * gpus, (0,) * gpus, cpu_cores, 0)


def _visible(count: int, environment: Mapping[str, str], uuids: list[str]) -> list[int]:
    """Apply CUDA_VISIBLE_DEVICES as CUDA does: entries after the first unknown one are not seen."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return list(range(count))
    seen: list[int] = []
    for item in (part.strip() for part in listed.split(",")):
        if item.isdigit() and int(item) < count:
            seen.append(int(item))
        elif item and any(uuid.startswith(item) for uuid in uuids):
            seen.append(next(index for index, uuid in enumerate(uuids) if uuid.startswith(item)))
        else:
            break
    return seen


def detect(environment: Mapping[str, str] | None = None) -> Hardware:
    """Look at this machine. No driver, or none that answers, means no GPU."""
    environment = os.environ if environment is None else environment
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bare = Hardware((), (), cores, pages * page_size)
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        is_absent = isinstance(error, getattr(pynvml, "NVMLError_LibraryNotFound", ()))
        return bare if is_absent else replace(bare, refusal=str(error))
    try:
        devices, present = _devices(pynvml, environment)
        newest = _told(pynvml, "nvmlSystemGetCudaDriverVersion_v2")
        return replace(
            bare,
            gpu_names=tuple(device.name for device in devices),
            gpu_memory_bytes=tuple(device.memory_bytes for device in devices),
            devices=tuple(devices),
            present=present,
            driver=_text(_told(pynvml, "nvmlSystemGetDriverVersion")),
            driver_cuda=(newest // 1000, newest % 1000 // 10) if newest else None,
        )
    except pynvml.NVMLError as error:
        return replace(bare, refusal=str(error))
    finally:
        pynvml.nvmlShutdown()


def _devices(nvml: Any, environment: Mapping[str, str]) -> tuple[list[Gpu], int]:
    """List what a process of CUDA sees, and count the GPUs.

    Of slices a process sees a single one, whatever CUDA_VISIBLE_DEVICES lists, and no GPU beside it.

    Source:
        NVIDIA MIG User Guide, "Device Enumeration" and "CUDA_VISIBLE_DEVICES".
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    uuids = [str(_text(nvml.nvmlDeviceGetUUID(handle))) for handle in handles]
    cut = {
        index: list(_slices(nvml, handle)) for index, handle in enumerate(handles) if _is_cut(nvml, handle)
    }
    named = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if named.startswith("MIG-"):
        for index, slices in cut.items():
            for handle in slices:
                if str(_text(nvml.nvmlDeviceGetUUID(handle))).startswith(named):
                    return [_device(nvml, index, handle, whole=handles[index])], len(handles)
        return [], len(handles)
    found: list[Gpu] = []
    for index in _visible(len(handles), environment, uuids):
        if index not in cut:
            found.append(_device(nvml, index, handles[index], whole=None))
        elif cut[index]:
            found.append(_device(nvml, index, cut[index][0], whole=handles[index]))
    whole = [device for device in found if not device.is_slice]
    return (whole or found[:1]), len(handles)


def _is_cut(nvml: Any, handle: Any) -> bool:
    mode = _told(nvml, "nvmlDeviceGetMigMode", handle)
    return bool(mode and mode[0])


def _slices(nvml: Any, handle: Any) -> Iterator[Any]:
    for number in range(_told(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        found = _told(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
        if found is not None:
            yield found


def _device(nvml: Any, index: int, handle: Any, *, whole: Any) -> Gpu:
    """Describe a device.

    Args:
        whole: the GPU that a slice is cut from; it knows the capability.
    """
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    capability = _told(nvml, "nvmlDeviceGetCudaComputeCapability", whole or handle)
    free = getattr(memory, "free", None)
    processes = [] if whole else _told(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or []
    return Gpu(
        index=index,
        name=str(_text(nvml.nvmlDeviceGetName(handle))),
        memory_bytes=int(memory.total),
        free_bytes=None if free is None else int(free),
        capability=(int(capability[0]), int(capability[1])) if capability else None,
        is_slice=whole is not None,
        compute_mode=int(_told(nvml, "nvmlDeviceGetComputeMode", whole or handle) or 0),
        processes=tuple(GpuProcess(pid=one.pid, memory_bytes=one.usedGpuMemory) for one in processes),
    )


def _told(nvml: Any, name: str, *arguments: Any) -> Any:
    """Ask what older drivers, virtual GPUs and containers do not answer; None then."""
    ask = getattr(nvml, name, None)
    try:
        return None if ask is None else ask(*arguments)
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str | None:
    """Read what older versions of the library return as bytes."""
    return value.decode() if isinstance(value, bytes) else value
