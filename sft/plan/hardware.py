"""What this machine shows: GPUs through NVIDIA's management library, cores and memory. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine.

    `gpu_names` and `gpu_memory_bytes` hold one entry a visible GPU.
    """

    gpu_names: tuple[str, ...]
    gpu_memory_bytes: tuple[int, ...]
    cpu_cores: int
    memory_bytes: int

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
    import pynvml

    environment = os.environ if environment is None else environment
    names: list[str] = []
    memory: list[int] = []
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        uuids = [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        for index in _visible(len(handles), environment, uuids):
            names.append(str(pynvml.nvmlDeviceGetName(handles[index])))
            memory.append(int(pynvml.nvmlDeviceGetMemoryInfo(handles[index]).total))
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        names, memory = [], []
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Hardware(tuple(names), tuple(memory), cores, pages * page_size)
