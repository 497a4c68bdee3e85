"""Find the checkpoint to continue from. A directory without a good manifest is none, and is set aside.

```
<output_dir>/checkpoint-<step>/          complete
<output_dir>/_sft/staging/checkpoint-<step>/   one in the making
<output_dir>/_sft/set-aside/             what was found torn, or was there before a fresh start
```
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sft.checkpoint.manifest import Manifest, read_manifest, verify
from sft.rundir import RunDirectory

CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
LARGE_BYTES = 4 << 30
"""From this size on, reading a checkpoint takes long enough to be said."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A complete checkpoint."""

    path: Path
    manifest: Manifest


def step_of(path: Path) -> int | None:
    """Return the step that a directory's name gives; None where it is no checkpoint's."""
    match = CHECKPOINT.match(path.name)
    return int(match[1]) if match else None


def directories(place: Path) -> list[Path]:
    """List the directories that are named as checkpoints, oldest step first."""
    found = [(step, path) for path in place.glob("checkpoint-*") if (step := step_of(path)) is not None]
    return [path for _, path in sorted(found) if path.is_dir()]


def complete(run: RunDirectory) -> list[Found]:
    """List the complete checkpoints, oldest first, by their manifests and the sizes of their files."""
    found = []
    for path in directories(run.output_dir):
        try:
            manifest = read_manifest(path)
            verify(path, manifest, hashes=False)
        except (ValueError, OSError):
            continue
        found.append(Found(path, manifest))
    return found


def newest(run: RunDirectory, say: Say) -> Found | None:
    """Return the newest checkpoint whose every byte is what was written; what stands in its way is set aside.

    To be called where no rank of the run is alive.

    Raises:
        OSError: something cannot be read or renamed.
    """
    tidy(run, say)
    found = None
    for path in reversed(directories(run.output_dir)):
        try:
            manifest = read_manifest(path)
            if manifest.step != step_of(path):
                raise ValueError(f"it holds step {manifest.step}")
            if found is None and manifest.bytes >= LARGE_BYTES:
                say(f"reading {path.name} ({manifest.bytes / 2**30:,.1f} GiB) to verify it")
            verify(path, manifest, hashes=found is None)
        except ValueError as problem:
            place = set_aside(run, path)
            say(f"{path.name} is not whole: {problem}; moved to {place}")
            continue
        found = found or Found(path, manifest)
    return found


def tidy(run: RunDirectory, say: Say) -> None:
    """Finish or remove what a killed save left: one with its manifest was complete, but for its name."""
    for path in directories(run.staging):
        try:
            verify(path, read_manifest(path))
        except ValueError:
            continue
        publish(run, path)
        say(f"{path.name} was complete but for its name when the run was killed: it counts")
    if run.staging.exists():
        shutil.rmtree(run.staging, ignore_errors=True)


def publish(run: RunDirectory, path: Path) -> Path:
    """Move a complete checkpoint out of staging; one of that step that is there already gives way."""
    target = run.output_dir / path.name
    older = run.staging / f"older-{path.name}"
    if target.exists():
        shutil.rmtree(older, ignore_errors=True)
        target.rename(older)
    path.rename(target)
    shutil.rmtree(older, ignore_errors=True)
    return target


def set_aside(run: RunDirectory, path: Path) -> Path:
    """Move a directory to where nothing looks for checkpoints, and return its new place."""
    run.set_aside.mkdir(parents=True, exist_ok=True)
    place, count = run.set_aside / path.name, 1
    while place.exists():
        count += 1
        place = run.set_aside / f"{path.name}.{count}"
    path.rename(place)
    return place
