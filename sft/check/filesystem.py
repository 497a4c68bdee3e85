"""What may be written to a directory: the room of its file system, and the user's quota on it. Runs `quota`."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sft.mounts import Mount, existing, mount_of

IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
SCRATCH = ("/tmp", "/var/tmp", "/dev/shm", "/run")
SCRATCH_VARIABLES = ("TMPDIR", "SLURM_TMPDIR", "XDG_RUNTIME_DIR", "LOCAL_SCRATCH")
QUOTA_SECONDS = 5.0
"""A file server that is down must not hold up a check."""


@dataclass(frozen=True, slots=True)
class Room:
    """What may still be written to a file system.

    Attributes:
        free_bytes: of the file system; quota_bytes: of the user's quota, None where no command tells one.
    """

    place: Path
    free_bytes: int
    quota_bytes: int | None = None

    @property
    def bytes(self) -> int:
        """The smaller of the two."""
        return self.free_bytes if self.quota_bytes is None else min(self.free_bytes, self.quota_bytes)

    @property
    def bound(self) -> str:
        """What sets the bound, for people."""
        by_quota = self.quota_bytes is not None and self.quota_bytes < self.free_bytes
        return "is left of your quota" if by_quota else "is free"


def node_local(path: Path, environment: Mapping[str, str] = os.environ) -> str | None:
    """Say why other machines will not see a path; None where nothing speaks against it."""
    place = existing(path)
    mount = mount_of(place)
    if mount is not None and mount.kind in IN_MEMORY:
        return f"{mount.point} is {mount.kind}, which lies in this machine's memory"
    scratch = [*SCRATCH, *filter(None, (environment.get(name) for name in SCRATCH_VARIABLES))]
    for directory in scratch:
        if path.expanduser().absolute().is_relative_to(directory) or place.is_relative_to(directory):
            return f"{directory} is this machine's own"
    return None


def room(path: Path) -> Room:
    """Look how much may be written where a path is or will be."""
    place = existing(path)
    return Room(place, shutil.disk_usage(place).free, quota_left(mount_of(place), place))


def quota_left(mount: Mount | None, place: Path) -> int | None:
    """Ask `lfs quota` (Lustre) or `quota` how many bytes the user may still write; None where neither says."""
    if mount is None:
        return None
    if mount.kind == "lustre":
        text = _run(["lfs", "quota", "-q", "-u", getpass.getuser(), str(mount.point)])
    else:
        text = _run(["quota", "-w"])
    return None if text is None else parse_quota(text, mount)


def parse_quota(text: str, mount: Mount) -> int | None:
    """Read what a quota command prints: file system, KiB used, soft limit, hard limit. 0 is no limit.

    The hard limit counts; where there is only a soft one, that. Both commands mark what is over a limit with `*`, and
    `lfs` puts what it is not sure of in brackets.
    """
    for name, used, soft, hard in re.findall(
        r"^\s*(\S+)\s+\[?(\d+)[\]*]*\s+\[?(\d+)\]?\s+\[?(\d+)\]?", text, re.MULTILINE
    ):
        if name not in (mount.source, str(mount.point)):
            continue
        limit = int(hard) or int(soft)
        return max(0, limit - int(used)) * 1024 if limit else None
    return None


def _run(command: Sequence[str]) -> str | None:
    """Return what a command prints, whatever its status (it tells of a quota that is reached); None without it."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=QUOTA_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


def gib(count: float) -> str:
    """Spell bytes for people."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:,.1f} MiB"
