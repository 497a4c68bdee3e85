"""Write a model's directory so that it stands alone: weights, configuration, tokenizer, template.

Nothing in it names the base's or the adapter's directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, AutoTokenizer, PreTrainedModel

from sft.errors import UserError
from sft.export.base import first_lines
from sft.export.source import TOKENIZER_FILES, AdapterSource

SHARD_SIZE = "5GB"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
FORGOTTEN_KEYS = ("_name_or_path", "name_or_path", "quantization_config")


def load_tokenizer(source: AdapterSource) -> Any | None:
    """Load the adapter's tokenizer or processor, else the base's; None where neither has one."""
    place: str | None = str(source.tokenizer) if source.tokenizer else None
    if (
        place is None
        and source.base_path
        and not any((source.base_path / name).is_file() for name in TOKENIZER_FILES)
    ):
        return None
    settings = {"trust_remote_code": source.trust_remote_code}
    if place is None:
        settings["revision"] = source.revision or "main"
    directory = Path(place or source.base)
    loader = AutoProcessor if any((directory / name).is_file() for name in PROCESSOR_FILES) else AutoTokenizer
    try:
        return loader.from_pretrained(place or source.base, **settings)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the tokenizer cannot be loaded: {first_lines(error)}",
            place or source.base,
            "save it again beside the adapter, or beside the base",
        ) from error


def write_package(
    model: PreTrainedModel, tokenizer: Any | None, directory: Path, source: AdapterSource
) -> list[str]:
    """Save into `directory`, which is empty; return what a person should know."""
    model.save_pretrained(directory, max_shard_size=SHARD_SIZE)
    notes = []
    if tokenizer is None:
        notes.append("neither the adapter nor the base has a tokenizer; the merged model has none either")
    else:
        tokenizer.save_pretrained(directory)
        notes += _stop_at_the_tokenizer_end(directory, tokenizer, source)
    places = {str(path) for path in source.forbidden_outputs} | {str(source.adapter), source.base}
    for path in directory.glob("*.json"):
        if path.name != "tokenizer.json" and not path.name.endswith(".index.json"):
            _forget_places(path, places)
    return notes


def _stop_at_the_tokenizer_end(directory: Path, tokenizer: Any, source: AdapterSource) -> list[str]:
    """Add the end token that was trained with to the base's generation configuration.

    The trainer does the same to the model that it holds, but with an adapter that is not saved. Edited as
    JSON: transformers refuses to save a published configuration that it holds to be invalid, once changed.
    """
    path = directory / "generation_config.json"
    end = getattr(getattr(tokenizer, "tokenizer", tokenizer), "eos_token_id", None)
    if source.tokenizer is None or end is None or not path.is_file():
        return []
    settings = json.loads(path.read_text(encoding="utf-8"))
    ends = settings.get("eos_token_id")
    known = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if end in known:
        return []
    settings["eos_token_id"] = [end, *known] if known else end
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return [
        f"generation_config.json: token {end}, the adapter's tokenizer's end of sequence, was added to eos_token_id"
    ]


def _forget_places(path: Path, places: set[str]) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        return
    kept = {
        key: value
        for key, value in settings.items()
        if key not in FORGOTTEN_KEYS and not (isinstance(value, str) and value in places)
    }
    if kept != settings:
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
