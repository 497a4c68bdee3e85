"""What a directory's file system is: its kind, its room, and the user's quota on it. Reads /proc, and runs `quota`."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
SCRATCH = ("/tmp", "/var/tmp", "/dev/shm", "/run")
SCRATCH_VARIABLES = ("TMPDIR", "SLURM_TMPDIR", "XDG_RUNTIME_DIR", "LOCAL_SCRATCH")
QUOTA_SECONDS = 5.0
"""A file server that is down must not hold up a check."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system: what is mounted (`server:/home`), where, and of which kind."""

    source: str
    point: Path
    kind: str


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


def existing(path: Path) -> Path:
    """Return the nearest directory above a path that is there, with links followed."""
    path = path.expanduser().absolute()
    return next(place for place in (path, *path.parents) if place.exists()).resolve()


def mount_of(path: Path, table: str | None = None) -> Mount | None:
    """Find the file system of a path.

    Args:
        table: /proc/self/mountinfo as text.
    Source:
        proc_pid_mountinfo(5): point in field 5, then optional fields up to `-`, then kind and source.
    """
    if table is None:
        try:
            table = MOUNTS.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    place, best = existing(path), None
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 2:
            continue
        point = Path(_plain(fields[4]))
        # The last one wins among equals: it is mounted over the others.
        if place.is_relative_to(point) and (best is None or len(point.parts) >= len(best.point.parts)):
            best = Mount(_plain(kinds[1]), point, kinds[0])
    return best


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


def _plain(field: str) -> str:
    r"""Undo the escapes of mountinfo: \040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def gib(count: float) -> str:
    """Spell bytes for people."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:,.1f} MiB"
