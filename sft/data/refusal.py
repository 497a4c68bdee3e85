"""The words in which a row is refused: kinds of values, nearest names, and the two sorts of `BadRow`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from sft.data.sample import BadRow

LONGEST_QUOTE = 60
FUNCTION_FIX = "or convert the rows with dataset_mapping: file.py:function"


def malformed(what: str, fix: str, reason: str) -> BadRow:
    """Make the refusal of a row that is not what its shape promises."""
    return BadRow(what, fix, reason=reason, malformed=True)


def nothing_to_learn(what: str, fix: str, reason: str) -> BadRow:
    """Make the refusal of a row that is well formed and holds nothing to train on."""
    return BadRow(what, fix, reason=reason, malformed=False)


def kind(value: Any) -> str:
    """Say what a value is, in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "text"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"a {type(value).__name__}"


def quote(value: Any) -> str:
    """Show a value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 3]}..."


def listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names)) or "nothing"


def nearest(name: Any, known: Iterable[str]) -> str | None:
    """Return the known name that a misspelt one most likely means."""
    found = difflib.get_close_matches(str(name).strip().lower(), list(known), n=1, cutoff=0.7)
    return found[0] if found else None
