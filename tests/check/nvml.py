"""A stand-in for NVIDIA's management library: the functions that the kit calls, over GPUs that a test describes.

No GPU was at hand where these tests were written, so what is shown here is what the manual of NVML says, and not what a
card was seen to answer.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from sft.plan.hardware import Hardware, detect

GIB = 1 << 30


@dataclass(frozen=True)
class Slice:
    """A slice that MIG cut."""

    name: str = "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    memory: int = 5 * GIB
    uuid: str = "MIG-slice"


@dataclass(frozen=True)
class Card:
    """A GPU. `slices` None: it is not cut; `processes` by pid: bytes, None where the driver does not tell."""

    name: str = "NVIDIA H100 80GB HBM3"
    memory: int = 80 * GIB
    capability: tuple[int, int] | None = (9, 0)
    taken: int = 0
    processes: dict[int, int | None] = field(default_factory=dict)
    mode: int = 0
    slices: tuple[Slice, ...] | None = None


class NVMLError(Exception):
    """What the library raises."""


class NVMLError_NotSupported(NVMLError):
    """A question that the card or the driver does not know."""


class NVMLError_LibraryNotFound(NVMLError):
    """There is no driver."""


def module(
    cards: Sequence[Card] = (),
    *,
    driver: str = "580.95.05",
    cuda: int = 13000,
    refusal: Exception | None = None,
) -> types.ModuleType:
    """Make a module `pynvml` that shows some cards.

    Args:
        cuda: the newest CUDA that the driver runs: 12040 is 12.4.
        refusal: what starting the library raises.
    """
    made: Any = types.ModuleType("pynvml")

    def start() -> None:
        if refusal is not None:
            raise refusal

    def not_for_slices(answer: Any) -> Any:
        def ask(handle: Any) -> Any:
            if isinstance(handle, Slice) or answer(handle) is None:
                raise NVMLError_NotSupported("Not Supported")
            return answer(handle)

        return ask

    def slice_at(card: Card, number: int) -> Slice:
        if number >= len(card.slices or ()):
            raise NVMLError("Not Found")
        assert card.slices is not None
        return card.slices[number]

    made.NVMLError = NVMLError
    made.NVMLError_NotSupported = NVMLError_NotSupported
    made.NVMLError_LibraryNotFound = NVMLError_LibraryNotFound
    made.nvmlInit = start
    made.nvmlShutdown = lambda: None
    made.nvmlSystemGetDriverVersion = lambda: driver
    made.nvmlSystemGetCudaDriverVersion_v2 = lambda: cuda
    made.nvmlDeviceGetCount = lambda: len(cards)
    made.nvmlDeviceGetHandleByIndex = lambda index: cards[index]
    made.nvmlDeviceGetUUID = lambda handle: (
        handle.uuid if isinstance(handle, Slice) else f"GPU-{list(map(id, cards)).index(id(handle))}"
    )
    made.nvmlDeviceGetName = lambda handle: handle.name
    made.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(
        total=handle.memory,
        free=handle.memory - getattr(handle, "taken", 0),
        used=getattr(handle, "taken", 0),
    )
    made.nvmlDeviceGetCudaComputeCapability = not_for_slices(lambda card: card.capability)
    made.nvmlDeviceGetComputeMode = not_for_slices(lambda card: card.mode)
    made.nvmlDeviceGetComputeRunningProcesses = not_for_slices(
        lambda card: [
            types.SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in card.processes.items()
        ]
    )
    made.nvmlDeviceGetMigMode = not_for_slices(lambda card: None if card.slices is None else [1, 1])
    made.nvmlDeviceGetMaxMigDeviceCount = lambda card: 7
    made.nvmlDeviceGetMigDeviceHandleByIndex = slice_at
    return made


def seen(monkeypatch: pytest.MonkeyPatch, cards: Sequence[Card] = (), **driver: Any) -> Hardware:
    """Show some cards to the kit from here on, and return the machine as it sees it now."""
    monkeypatch.setitem(sys.modules, "pynvml", module(cards, **driver))
    return detect()
