"""A model's tokens as its files list them, without building the tokenizer: their ids, the special ones, the chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data import rebuilt
from sft.json_file import read_json

FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tokenizer_config.json", "tekken.json", "tiktoken.model",
)  # fmt: skip
"""Any one of these may be all that a tokenizer is made of."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the files of a tokenizer say.

    Attributes:
        words: tokens that text is cut into, with their ids.
        added: tokens that are found whole wherever they stand.
        special: `eos_token`, `pad_token`...; None where only transformers can tell them.
        stops: what generation ends at besides, by generation_config.json.
    """

    words: Mapping[str, int]
    added: Mapping[str, int]
    special: Mapping[str, str] | None
    template: str | None
    stops: frozenset[int]

    def id_of(self, token: str) -> int | None:
        """Return the id of a token; None where it falls into pieces."""
        found = self.added.get(token)
        return self.words.get(token) if found is None else found


def has_tokenizer(directory: Path) -> bool:
    """Whether there is any file of a tokenizer."""
    return any((directory / name).is_file() for name in FILES)


def read_vocabulary(directory: Path) -> Vocabulary | None:
    """Read the files; None where there is no tokenizer.json, or a file is broken (which preparing the data tells)."""
    try:
        file = read_json(directory / "tokenizer.json")
        if file is None:
            return None
        config = _json(directory / "tokenizer_config.json")
        words = _words(file["model"])
        added = {one["content"]: int(one["id"]) for one in file.get("added_tokens") or ()}
        listed = config.get("added_tokens_decoder") or {}
        added |= {
            one["content"]: int(number) for number, one in listed.items() if one["content"] not in added
        }
        special = _special(directory, config, file)
        template = _template(directory, config)
        stops = _json(directory / "generation_config.json").get("eos_token_id")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    numbers = stops if isinstance(stops, list) else [stops]
    ends = frozenset(number for number in numbers if isinstance(number, int))
    return Vocabulary(words, added, special, template, ends)


def _words(model: Mapping[str, Any]) -> dict[str, int]:
    found = model["vocab"]
    if isinstance(found, dict):
        if not all(isinstance(number, int) for number in found.values()):
            raise ValueError("an id is no number")
        return found
    return {entry[0]: number for number, entry in enumerate(found)}  # Unigram: pieces with their scores


def _special(directory: Path, config: Mapping[str, Any], file: Mapping[str, Any]) -> dict[str, str] | None:
    kind = rebuilt.tokenizer_class(config, _json(directory / "config.json"), file)
    if kind not in rebuilt.GENERAL and kind not in rebuilt.DEFAULTS:
        return None
    older = _json(directory / "special_tokens_map.json")
    named = {key: value for key, value in {**older, **config}.items() if key.endswith("_token")}
    texts = {key: _content(value) for key, value in named.items()}
    whole = rebuilt.DEFAULTS.get(str(kind), {}) | texts
    return {key: text for key, text in whole.items() if isinstance(text, str) and text}


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _template(directory: Path, config: Mapping[str, Any]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    written = config.get("chat_template")
    if isinstance(written, list):
        written = next((one["template"] for one in written if one["name"] == "default"), None)
    return written if isinstance(written, str) else None


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) or {}
