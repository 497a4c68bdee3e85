"""What every node of a run must have alike: the kit, the libraries, the model, the data, the checkpoint."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from sft.config.run import RunConfig
from sft.launch.command import PACKAGE_ROOT

LIBRARIES = (
    "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "bitsandbytes", "datasets",
    "huggingface_hub", "tokenizers", "safetensors", "numpy",
)  # fmt: skip
READ_BYTES = 16 << 20
"""Files up to here are compared by what is in them, if they are text; weights by their sizes alone."""
TEXT = (".json", ".jinja", ".txt", ".model", ".py")
SEEN_SECONDS = 20.0
"""How long what machine 0 has just written may take to be seen over a network file system."""
MISSING = "missing"


def versions() -> dict[str, str]:
    """Return the version of each library that a run stands on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def node_facts() -> dict[str, str]:
    """Return what this node has that another could have otherwise."""
    return {"the kit": kit_digest(), "Python": platform.python_version(), **versions()}


@cache
def kit_digest() -> str:
    """Return a digest of the kit's own code."""
    digest = hashlib.sha256()
    for path in sorted((PACKAGE_ROOT / "sft").rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE_ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def places(config: RunConfig, *, entry: str | None, checkpoint: str | None) -> dict[str, str]:
    """Return what the ranks will read on every node, by path, each with the digest of what lies there here.

    Args:
        entry: the directory of the prepared data.
        checkpoint: the one to continue from.
    """
    model = _model_directory(config)
    return {str(path): digest_of(Path(path)) for path in (model, entry, checkpoint) if path}


def differences(
    hashes: Mapping[str, str], *, seconds: float = SEEN_SECONDS, sleep: Callable[[float], None] = time.sleep
) -> list[tuple[str, str]]:
    """Say what is otherwise on this node, and how to mend it. What is new may take a while to be seen here."""
    end = time.monotonic() + seconds
    while True:
        here = {path: digest_of(Path(path)) for path in hashes}
        other = [path for path in hashes if here[path] != hashes[path]]
        if not other or time.monotonic() > end:
            break
        sleep(1.0)
    found = []
    for path in other:
        if here[path] == MISSING:
            fix = "put it on a file system that every node mounts"
            found.append((f"{path} is not there: it is not mounted, or lies on machine 0's own disk", fix))
        else:
            found.append((f"{path} holds something else than on machine 0", "give every node the same files"))
    return found


def digest_of(path: Path) -> str:
    """Return a digest of a directory: names and sizes of all files, and what is in the small ones of text."""
    if not path.exists():
        return MISSING
    digest = hashlib.sha256()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if not file.is_file() or any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}\0{size}\0".encode())
        if file.suffix in TEXT and size <= READ_BYTES:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _model_directory(config: RunConfig) -> str | None:
    """Return where the model lies on this machine; None where the ranks will have to fetch it."""
    name = config.model.model_name_or_path
    if not name:
        return None
    if Path(name).exists():
        return str(Path(name).absolute())
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=config.model.model_revision)
    return str(Path(found).parent) if isinstance(found, str) else None
