"""Checkpoints made by hand, for what needs no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sft.checkpoint.manifest import NAME, Manifest, hash_file
from sft.rundir import RunDirectory

FILES = {
    "adapter_model.safetensors": b"weights" * 100,
    "optimizer.pt": b"moments" * 200,
    "scheduler.pt": b"schedule",
    "rng_state.pth": b"random numbers",
    "trainer_state.json": b'{"global_step": 4}',
    "deep/inside/part.bin": b"a part",
}


def make(place: Path, step: int, files: dict[str, bytes] | None = None, **more: Any) -> Path:
    """Write a complete checkpoint into a directory."""
    path = place / f"checkpoint-{step}"
    for name, content in (FILES if files is None else files).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    (path / NAME).write_text(manifest(path, step, **more).to_json())
    return path


def manifest(path: Path, step: int, **more: Any) -> Manifest:
    """Return the manifest of what lies in a directory."""
    fields: dict[str, Any] = {
        "step": step,
        "epoch": 0.5,
        "created": 1.0,
        "run_id": "abcd1234",
        "world_size": 1,
        "strategy": "single",
        "rows_per_step": 4,
        "settings": {},
        "data": None,
        "versions": {"torch": "2.13.0"},
        "trained_tokens": 100,
        "best_step": None,
        "files": {
            file.relative_to(path).as_posix(): hash_file(file)
            for file in sorted(path.rglob("*"))
            if file.is_file() and file.name != NAME
        },
    }
    return Manifest(**{**fields, **more})


def run_in(place: Path) -> RunDirectory:
    return RunDirectory(place / "run")
