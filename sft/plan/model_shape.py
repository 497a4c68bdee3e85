"""What a local model's config.json says, read without transformers. A name on the Hub is left to the ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sft.json_file import UnreadableError, read_json

MOST_LAYERS = 10_000
"""No model has as many: a number beyond is broken, and is not counted up to."""


def read_model_shape(name_or_path: str | None) -> dict[str, Any]:
    """Return the configuration of the language model within a model; empty where there is no local one to read."""
    path = Path(name_or_path or "") / "config.json"
    try:
        return of_language_model(read_json(path))
    except UnreadableError:
        return {}  # which `sft check` tells


def of_language_model(found: object) -> dict[str, Any]:
    """Return what a config.json says of the language model within a model; empty where it is no configuration.

    A model_type that is no name is left out.
    """
    if not isinstance(found, dict):
        return {}
    text = found.get("text_config")
    whole = {**found, **text} if isinstance(text, dict) else found
    if isinstance(whole.get("model_type", ""), str):
        return whole
    return {key: value for key, value in whole.items() if key != "model_type"}
