"""Remember which step is finished, and for which inputs. The standard library only."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def file_digest(*paths: Path) -> str:
    """Digest what some files say, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def is_finished(stamp: Path, inputs: Mapping[str, Any]) -> bool:
    """Say whether a step was finished with exactly these inputs."""
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(found == json.loads(json.dumps(inputs)))


def mark_finished(stamp: Path, inputs: Mapping[str, Any]) -> None:
    """Write the stamp, whole: the last act of a step."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    temporary = stamp.with_name(f"{stamp.name}.{os.getpid()}")
    temporary.write_text(json.dumps(inputs, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, stamp)
