"""What a GPU can do, by its name: memory, arithmetic, bandwidth.

Source:
    The vendor's data sheets, without sparsity: bfloat16 on tensor cores (float16 where the GPU has no bfloat16), memory
    bandwidth, NVLink both ways together. `memory_mib` is what `nvidia-smi` shows of the card as its total.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sft.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """One GPU.

    Attributes:
        tflops: dense, in 16 bits, 1e12 operations a second.
        memory_gbs, link_gbs: 1e9 bytes a second, of its memory and to its neighbours on the machine.
        capability: CUDA's, 9.0 is Hopper.
    """

    name: str
    memory_mib: int
    tflops: float = 0.0
    memory_gbs: float = 0.0
    link_gbs: float = 64.0
    capability: float = 0.0

    @property
    def memory_bytes(self) -> int:
        """Its memory."""
        return self.memory_mib << 20

    @property
    def is_timed(self) -> bool:
        """Whether its speed is known."""
        return self.tflops > 0


_TABLE = (
    ("b200-180g", 183359, 2250, 8000, 1800, 10.0),
    ("h200-141g", 143771, 989, 4800, 900, 9.0),
    ("gh200-96g", 97871, 989, 4000, 900, 9.0),
    ("h100-80g", 81559, 989, 3350, 900, 9.0),
    ("h100-pcie-80g", 81559, 756, 2000, 128, 9.0),
    ("h100-94g", 95830, 835, 3900, 600, 9.0),
    ("a100-80g", 81920, 312, 2039, 600, 8.0),
    ("a100-40g", 40960, 312, 1555, 600, 8.0),
    ("l40s-48g", 46068, 362, 864, 64, 8.9),
    ("a40-48g", 46068, 150, 696, 112, 8.6),
    ("a6000-48g", 49140, 155, 768, 112, 8.6),
    ("rtx6000ada-48g", 49140, 364, 960, 64, 8.9),
    ("rtx4090-24g", 24564, 165, 1008, 64, 8.9),
    ("rtx3090-24g", 24576, 71, 936, 112, 8.6),
    ("a10-24g", 23028, 125, 600, 64, 8.6),
    ("a10g-24g", 23028, 70, 600, 64, 8.6),
    ("l4-24g", 23034, 121, 300, 64, 8.9),
    ("v100-32g", 32768, 125, 900, 300, 7.0),
    ("v100-16g", 16384, 125, 900, 300, 7.0),
    ("t4-16g", 15360, 65, 320, 32, 7.5),
)
GPUS: Mapping[str, GpuModel] = MappingProxyType(
    {
        name: GpuModel(
            name=name, memory_mib=mib, tflops=tflops, memory_gbs=memory, link_gbs=link, capability=capability
        )
        for name, mib, tflops, memory, link, capability in _TABLE
    }
)
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(gib|gb|g|mib|mb|m)", re.IGNORECASE)


def gpu_named(word: str, where: str = "--gpu") -> GpuModel:
    """Return a GPU by its name in the table, or one of so much memory and unknown speed: 24GiB, 80GB.

    Raises:
        UserError: it is neither.
    """
    found = GPUS.get(word.lower())
    if found is not None:
        return found
    size = SIZE.fullmatch(word.strip())
    if size is None:
        raise UserError(
            f"{word} is neither a GPU that the kit knows nor an amount of memory",
            where,
            f"one of {', '.join(GPUS)}; or its memory, as 24GiB; or auto for this machine's",
        )
    unit = {"gib": 2**30, "g": 2**30, "gb": 10**9, "mib": 2**20, "m": 2**20, "mb": 10**6}[size[2].lower()]
    return GpuModel(name=word, memory_mib=int(float(size[1]) * unit) >> 20)


def _family(plain: str) -> str:
    """Return the longest family of the table that a driver's name begins with: l40s, and not l4."""
    families = {gpu.name.split("-")[0] for gpu in GPUS.values()}
    return max((family for family in families if plain.startswith(family)), key=len, default="")


def gpu_seen(name: str, memory_bytes: int) -> GpuModel:
    """Return what a driver names, `NVIDIA H100 80GB HBM3`, with the speed of the nearest in the table."""
    plain = re.sub(
        r"[^a-z0-9]", "", name.lower().replace("geforce", "").replace("nvidia", "").replace("tesla", "")
    )
    mib = memory_bytes >> 20
    near = [
        gpu
        for gpu in GPUS.values()
        if _family(plain) == gpu.name.split("-")[0] and ("pcie" in plain) == ("pcie" in gpu.name)
    ]
    if not near or "mig" in plain:
        return GpuModel(name=name, memory_mib=mib)
    best = min(near, key=lambda gpu: abs(gpu.memory_mib - mib))
    return GpuModel(
        name=name,
        memory_mib=mib,
        tflops=best.tflops,
        memory_gbs=best.memory_gbs,
        link_gbs=best.link_gbs,
        capability=best.capability,
    )
