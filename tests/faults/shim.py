"""The library that makes calls go wrong (shim.c): compile it, and talk to it from a process that was started with it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
GROUPS = ("save", "told")
"""What a checkpoint is made of, and what is told beside it: events, the ranks' state, logs."""
WRITES = ("write", "pwrite", "pwrite64", "writev", "sendfile", "sendfile64", "copy_file_range")


def compiler() -> str | None:
    """Return a C compiler; None where there is none."""
    return shutil.which("cc") or shutil.which("gcc")


def build(place: Path) -> Path:
    """Compile the library into a directory and return it."""
    library = place / "shim.so"
    found = compiler()
    assert found is not None
    command: Sequence[str] = [found, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


@dataclass(frozen=True)
class Call:
    """One call that changed something under the watched directory."""

    group: str
    number: int
    name: str
    bytes: int
    path: str
    is_hit: bool

    @property
    def kind(self) -> str:
        """The name that a reader knows it by."""
        if self.name in WRITES:
            return "write"
        name = self.name.removesuffix("64").removesuffix("at2").removesuffix("at")
        return {"open": "create", "rmdir": "remove", "unlink": "remove", "fdatasync": "fsync"}.get(name, name)


def calls(trace: Path) -> list[Call]:
    """Read what the library told."""
    found = []
    for line in trace.read_text().splitlines() if trace.exists() else []:
        line, hit, _ = line.partition(" <- here")
        group, number, name, size, path = line.split(" ", 4)
        found.append(Call(GROUPS[int(group)], int(number), name, int(size), path, bool(hit)))
    return found


class Shim:
    """The library as it is loaded into this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fault_watch.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        self._library.fault_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int]

    def watch(self, directory: Path, trace: Path) -> None:
        """Count from now on what this process changes under a directory, and tell each call to a file."""
        self._library.fault_watch(bytes(directory), bytes(trace))

    def arm(self, group: str, number: int, error: int) -> None:
        """Have the n-th call of a group fail with an error, and all after it; with 0, die in it."""
        self._library.fault_arm(GROUPS.index(group), number, error)

    def disarm(self) -> None:
        """Let everything succeed again, in all that were forked from the same process, and count no more in this one."""
        self._library.fault_disarm()
