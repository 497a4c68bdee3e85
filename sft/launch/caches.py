"""The disk of the node itself: whether there is room on it, and whether compiled kernels go there.

On a file system that other machines serve, every rank of every node waits for it.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from sft.errors import Problem
from sft.mounts import mount_of

DEFAULTS = {
    "TRITON_CACHE_DIR": ("TRITON_HOME", ".triton/cache"),
    "TORCH_EXTENSIONS_DIR": ("XDG_CACHE_HOME", "torch_extensions"),
}
"""Variable -> the variable below whose directory the cache lies without it, and where there. Without either: HOME."""

SCRATCH_BYTES = 1 << 30
"""What a node's own disk is to have free: compiled kernels take some 100 MB, a torch extension as much."""


def no_room() -> Iterator[Problem]:
    """Tell that this node's own disk, $TMPDIR or /tmp, has too little room to start on."""
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if free < SCRATCH_BYTES:
        yield Problem(
            f"{socket.gethostname()} has {free / 2**20:,.0f} MiB free on its own disk, and a start takes"
            f" {SCRATCH_BYTES / 2**20:,.0f}: kernels are compiled there",
            place,
            "set TMPDIR to a disk of the node with room, make some, or leave the node out: launch.slurm.exclude",
        )


def on_shared(environment: Mapping[str, str], table: str | None = None) -> Iterator[Problem]:
    """Tell each cache of compiled kernels that lies on another machine's file system.

    Args:
        environment: of the ranks.
        table: /proc/self/mountinfo as text.
    Source:
        triton/knobs.py; torch/utils/cpp_extension.py, _get_build_directory.
    """
    for name, (above, below) in DEFAULTS.items():
        named = environment.get(name)
        path = Path(named) if named else Path(environment.get(above) or _home(above, environment), below)
        mount = mount_of(path, table)
        if mount is None or not mount.is_shared:
            continue
        yield Problem(
            f"compiled kernels go to {mount.kind} ({mount.source}), where the ranks of all nodes compile and wait at once",
            f"{name}={path}",
            f"export {name} with a directory on the node's own disk; a job of `sft launch --on slurm` does so where it is"
            " not set",
        )


def _home(above: str, environment: Mapping[str, str]) -> str:
    home = environment.get("HOME", "/")
    return f"{home}/.cache" if above == "XDG_CACHE_HOME" else home
