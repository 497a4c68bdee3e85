"""What a machine shows, with a stand-in for NVIDIA's library; without a driver there is no GPU."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import pytest

from sft.plan.hardware import detect

UUIDS = ["GPU-aaa1", "GPU-aaa2", "GPU-bbb3"]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Three GPUs of different size; `module.broken` makes the driver refuse."""
    module: Any = types.ModuleType("pynvml")
    module.broken = False

    class NVMLError(Exception):
        pass

    def init() -> None:
        if module.broken:
            raise NVMLError("driver not loaded")

    module.NVMLError = NVMLError
    module.nvmlInit = init
    module.nvmlShutdown = lambda: None
    module.nvmlDeviceGetCount = lambda: 3
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetUUID = lambda handle: UUIDS[handle]
    module.nvmlDeviceGetName = lambda handle: f"GPU {handle}"
    module.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=(handle + 1) * 10**9)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


@pytest.mark.parametrize(
    ("listed", "seen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("0,7,1", [0]),
        ("-1", []),
        ("GPU-bbb3,GPU-aaa1", [2, 0]),
        ("GPU-zzz,0", []),
        (" 0 , 1 ", [0, 1]),
    ],
)
def test_the_gpus_that_a_process_would_see_are_shown(
    nvml: types.ModuleType, listed: str | None, seen: list[int]
) -> None:
    hardware = detect({} if listed is None else {"CUDA_VISIBLE_DEVICES": listed})
    assert hardware.gpu_names == tuple(f"GPU {index}" for index in seen)
    assert hardware.gpu_memory_bytes == tuple((index + 1) * 10**9 for index in seen)
    assert hardware.gpus == len(seen)


def test_no_driver_means_no_gpu(nvml: Any) -> None:
    nvml.broken = True
    hardware = detect({})
    assert (hardware.gpus, hardware.gpu_names) == (0, ())


def test_cores_and_memory_are_this_machines() -> None:
    hardware = detect({})
    assert hardware.cpu_cores == len(os.sched_getaffinity(0))
    assert 10**8 < hardware.memory_bytes < 10**14
