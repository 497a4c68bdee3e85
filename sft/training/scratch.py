"""The small files of a save: written by the libraries to a place in memory, taken from there.

Configurations, the tokenizer and the trainer's state are written in the middle of a save that the ranks make together,
where a full disk would leave the others waiting; so they are not written to the run's disk at that moment.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from sft.checkpoint.capture import LEFT_OUT
from sft.checkpoint.write import Pending

SCRATCH = "sft-save-"
STALE_SECONDS = 3600


def make_scratch() -> Path:
    """Make a directory for the small files of one save, in memory where there is such a place.

    What processes that were killed have left there is removed.
    """
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    for left in place.glob(f"{SCRATCH}{os.getuid()}-*"):
        with suppress(OSError):
            # Its process may live in another container, where this one does not see it.
            is_old = time.time() - left.stat().st_mtime > STALE_SECONDS
            if is_old and not Path("/proc", left.name.split("-")[3]).exists():
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getuid()}-{os.getpid()}-", dir=place))


def small_files(folder: Path) -> list[Pending]:
    """List what the libraries wrote themselves: configurations, the tokenizer, the trainer's state."""
    return [
        Pending(path.relative_to(folder).as_posix(), path.stat().st_size, partial(shutil.copyfile, path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in LEFT_OUT
    ]


def without_places(path: Path) -> None:
    """Take the place of the best checkpoint out of the trainer's state: its step is enough, and stays true."""
    state = json.loads(path.read_text(encoding="utf-8"))
    state["best_model_checkpoint"] = None
    path.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
