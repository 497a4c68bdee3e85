"""What a local model's config.json says, read without transformers. A name on the Hub is left to the ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_model_shape(name_or_path: str | None) -> dict[str, Any]:
    """Return the configuration of the language model within a model; empty where there is no local one to read."""
    path = Path(name_or_path or "") / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError):
        return {}  # a broken file is told when the model is loaded
    if not isinstance(found, dict):
        return {}
    text = found.get("text_config")
    return {**found, **text} if isinstance(text, dict) else found
