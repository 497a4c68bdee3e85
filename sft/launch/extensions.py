"""The cache of torch extensions, where a build that was killed leaves a lock that others wait for, for ever.

torch builds an extension under a file `lock` beside it (torch/utils/file_baton.py): whoever creates the file keeps
it open, and removes it when the build is done. DeepSpeed builds its operators so, at their first use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from sft.errors import ExitCode, UserError

# The longest builds take minutes; another node's, over a shared home, cannot be seen from here.
STALE_SECONDS = 3600.0


def refuse_stale_locks(environment: Mapping[str, str]) -> None:
    """Refuse to start ranks that would wait for a build that nobody does any more.

    Raises:
        UserError: a lock is older than any build takes, and no process of this machine holds it.
    """
    for path in unheld_locks(environment, older_than_seconds=STALE_SECONDS):
        hours = (time.time() - _changed(path)) / 3600
        raise UserError(
            f"the torch extension {path.parent.name} is locked by a build that was killed {hours:.0f} h ago: every "
            "rank would wait for it",
            str(path),
            f"rm {path}",
            exit_code=ExitCode.ENVIRONMENT,
        )


def unheld_locks(environment: Mapping[str, str], *, older_than_seconds: float = 0.0) -> list[Path]:
    """List the locks that no process of this machine holds."""
    before = time.time() - older_than_seconds
    old = [path for path in _locks(environment) if _changed(path) <= before]
    held = _open_files() if old else set()
    return [path for path in old if os.path.realpath(path) not in held]


def _locks(environment: Mapping[str, str]) -> list[Path]:
    if named := environment.get("TORCH_EXTENSIONS_DIR"):
        root = Path(named)
    else:
        home = Path(environment.get("HOME", "~")).expanduser()
        root = Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "torch_extensions"
    # In the default place, each Python and CUDA has a folder of its own.
    return sorted(path for pattern in ("*/lock", "*/*/lock") for path in root.glob(pattern) if path.is_file())


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _open_files() -> set[str]:
    """List the files that processes of this machine have open, as far as this user may see it."""
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found.add(os.readlink(descriptor))
        except OSError:
            continue
    return found
