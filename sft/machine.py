"""What this machine has left. Reads /proc and cgroups; loads nothing."""

from __future__ import annotations

from pathlib import Path


def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for products of bfloat16; without them they take some thirty times as long."""
    text = Path("/proc/cpuinfo").read_text()
    # x86 names them in `flags`, ARM in `Features`.
    return any(word in text for word in ("avx512_bf16", "amx_bf16", " bf16"))


def available_memory_bytes() -> int:
    """Return the memory that this process can still take: the machine's, or its cgroup's if that is less."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    own = Path("/proc/self/cgroup").read_text().strip().splitlines()[-1].split("::")[-1]
    for group in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup", own.lstrip("/"))):
        try:
            limit = (group / "memory.max").read_text().strip()
            used = int((group / "memory.current").read_text())
        except OSError:  # not a cgroup v2 with a memory controller
            continue
        if limit != "max":
            available = min(available, int(limit) - used)
    return available
