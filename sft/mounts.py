"""The file system that a path lies on. Reads /proc."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
SHARED = re.compile(
    r"nfs4?|lustre|gpfs|beegfs|ceph|panfs|wekafs|cifs|smb3|9p|orangefs|fuse\.(?!overlayfs|squashfuse).*"
)
"""Kinds of file systems that lie on other machines."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system: what is mounted (`server:/home`), where, and of which kind."""

    source: str
    point: Path
    kind: str

    @property
    def is_shared(self) -> bool:
        """Whether it lies on other machines, behind a network."""
        return SHARED.fullmatch(self.kind) is not None


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


def _plain(field: str) -> str:
    r"""Undo the escapes of mountinfo: \040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
