"""What a GPU can do, by its name: memory, arithmetic, bandwidth.

Source:
    The vendor's data sheets, without sparsity: bfloat16 on tensor cores (float16 where the GPU has no bfloat16), memory
    bandwidth, NVLink both ways together. `memory_mib` is what `nvidia-smi` shows of the card as its total.
"""

from __future__ import annotations

import difflib
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
BYTES = {"gib": 2**30, "g": 2**30, "gb": 10**9, "mib": 2**20, "m": 2**20, "mb": 10**6}
LEAST_BYTES, MOST_BYTES = 2**30, 2**40


def gpu_named(word: str, where: str = "--gpu") -> GpuModel:
    """Return a GPU by its name in the table, or as its driver names it where that says which (`NVIDIA H100 PCIe`, `L4`);
    or one of so much memory and unknown speed: 24GiB, 80GB.

    Raises:
        UserError: it is none of these.
    """
    word = word.strip()
    found = GPUS.get(word.lower()) or _only(word)
    if found is not None:
        return found
    size = SIZE.fullmatch(word)
    if size is None:
        auto = "; or auto for this machine's" if where == "--gpu" else ""
        raise UserError(_unknown(word), where, _meant(word) + auto)
    memory = float(size[1]) * BYTES[size[2].lower()]
    if not LEAST_BYTES <= memory <= MOST_BYTES:
        raise UserError(
            f"no GPU has {word} of memory", where, "from 1GiB to 1024GiB, as 24GiB; or the GPU's name"
        )
    return GpuModel(name=word, memory_mib=int(memory) >> 20)


def _unknown(word: str) -> str:
    if not word:
        return "no GPU is named"
    if len(_family(word)) > 1:
        return f"{word} may be one of several GPUs"
    return f"{word} is neither a GPU that the kit knows nor an amount of memory"


def _meant(word: str) -> str:
    """Say which names there are: those of the family that a word comes nearest to, or all."""
    families = {gpu.name.split("-")[0]: gpu for gpu in GPUS.values()}
    near = difflib.get_close_matches(word.lower(), families, n=1)
    names = [gpu.name for gpu in _family(word) or _family("".join(near))]
    if not names:
        return f"one of {', '.join(GPUS)}; or its memory, as 24GiB"
    others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    return f"did you mean {names[0]}{others}? or give its memory, as 24GiB"


def _family(name: str) -> list[GpuModel]:
    """List the GPUs of the table that a name may tell of: `NVIDIA L40S` is an l40s, and `NVIDIA L40` no l4."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    joined = {"".join(words[first : first + count]) for first in range(len(words)) for count in (1, 2, 3)}
    families = {gpu.name.split("-")[0] for gpu in GPUS.values()} & joined
    longest = max(families, key=len, default=None)
    return [gpu for gpu in GPUS.values() if gpu.name.split("-")[0] == longest and "mig" not in words]


def _of_its_bus(name: str, models: list[GpuModel]) -> list[GpuModel]:
    """Leave out the cards for PCIe, or all others, where the table tells them apart."""
    is_pcie = "pcie" in name.lower()
    return [gpu for gpu in models if ("pcie" in gpu.name) == is_pcie] or models


def _only(name: str) -> GpuModel | None:
    """Return the GPU that a name tells of, where it can be no other one."""
    models = _of_its_bus(name, _family(name))
    sizes = re.findall(r"\b(\d+)\s*gi?b?\b", name.lower())
    fitting = [gpu for gpu in models if not sizes or gpu.name.endswith(f"-{sizes[0]}g")]
    return fitting[0] if len(fitting) == 1 else None


def gpu_seen(name: str, memory_bytes: int) -> GpuModel:
    """Return what a driver names, `NVIDIA H100 80GB HBM3`, with the speed of the nearest in the table."""
    mib = memory_bytes >> 20
    near = _of_its_bus(name, _family(name))
    if not near:
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
