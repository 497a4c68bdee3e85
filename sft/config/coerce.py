"""Read a word, of the command line or of the file, by the type that its key declares."""

from __future__ import annotations

import json
from typing import Any

from sft.config.entry import Entry
from sft.config.fields import is_text, members, takes
from sft.config.old_names import truth


def _json_values(value: Any) -> Any:
    """Read words inside JSON as transformers does (`_convert_str_dict` of training_args.py)."""
    if isinstance(value, dict):
        return {key: _json_values(item) for key, item in value.items()}
    if isinstance(value, str):
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        if value.isdecimal():
            return int(value)
        if value.replace(".", "", 1).isdecimal():
            return float(value)
    return value


def coerce_word(key: str, word: str) -> Any:
    """Read one word; what it cannot be is left to validation, which knows how to say so."""
    if word.lower() in ("none", "null") and type(None) in members(key) and not takes(key, str):
        return None
    # `pad_to_multiple_of: none` and the like: None is meant where text is only one of several types.
    if word.lower() in ("none", "null") and type(None) in members(key) and takes(key, int):
        return None
    if takes(key, bool) and takes(key, str) and word.lower() in ("true", "false"):
        return truth(word)
    if word.lstrip().startswith(("{", "[")) and (takes(key, dict) or takes(key, list)):
        try:
            read = json.loads(word)
        except ValueError:
            return word
        return _json_values(read) if takes(key, dict) and not is_text(key) else read
    if takes(key, list) and not takes(key, str):
        return [word]
    return word


def coerce_entry(key: str, entry: Entry) -> Any:
    """Return an entry's value as its key takes it: text as it was written, words by the declared type."""
    value = entry.value
    if entry.text is not None and is_text(key) and value is not None:
        value = entry.text
        if key == "env" and isinstance(entry.value, dict) and isinstance(value, dict):
            # TRL sets the variable to Python's own spelling of a boolean.
            value = {
                name: str(entry.value[name]) if isinstance(entry.value[name], bool) else text
                for name, text in value.items()
            }
    return coerce_word(key, value) if isinstance(value, str) else value
