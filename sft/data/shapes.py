"""The shapes of rows that need no configuration, and which of them a row has.

Where a row fits two shapes, the first of this order counts; it is what TRL trains of the shapes that it knows:
`input_ids`, then `prompt` with `completion`, `messages`, `conversations` (or `conversation`), `dataset_text_field`,
`instruction` with `output`. A `prompt` without a `completion` decides nothing. A column that is null in a row
counts only if the row fits nothing else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sft.data.refusal import listed, malformed, nearest
from sft.data.sample import BadRow


class Shape(StrEnum):
    """What a row looks like; the name is printed."""

    MESSAGES = "messages"
    PROMPT_COMPLETION = "prompt_completion"
    TEXT = "text"
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    TOKENS = "tokens"


CHAT_COLUMNS = ("messages", "conversations", "conversation")
QUESTIONS = ("question", "query", "user", "prompt", "instruction", "problem", "input")
ANSWERS = ("answer", "response", "assistant", "completion", "output", "solution", "chosen")


def recognise(row: dict[str, Any], text_field: str) -> Shape:
    """Say which shape a row has.

    Raises:
        BadRow: it has none.
    """
    get = row.get
    if get("input_ids") is not None:
        return Shape.TOKENS
    if get("completion") is not None and get("prompt") is not None:
        return Shape.PROMPT_COMPLETION
    for column in CHAT_COLUMNS:
        chat = get(column)
        if chat is not None:
            return Shape.SHAREGPT if _has_from(chat) else Shape.MESSAGES
    if get(text_field) is not None:
        return Shape.TEXT
    if get("instruction") is not None and get("output") is not None:
        return Shape.ALPACA
    return _recognise_null(row, text_field)


def chat_column(row: dict[str, Any]) -> str:
    """Name the column that holds a row's chat."""
    for column in CHAT_COLUMNS:
        if row.get(column) is not None:
            return column
    return next(column for column in CHAT_COLUMNS if column in row)


def _has_from(chat: Any) -> bool:
    """Tell ShareGPT's from/value from role/content by the first turn."""
    if not isinstance(chat, (list, tuple)) or not chat:
        return False
    first = chat[0]
    return isinstance(first, dict) and first.get("from") is not None and first.get("role") is None


def _recognise_null(row: dict[str, Any], text_field: str) -> Shape:
    if "input_ids" in row:
        return Shape.TOKENS
    if "prompt" in row and "completion" in row:
        return Shape.PROMPT_COMPLETION
    if any(column in row for column in CHAT_COLUMNS):
        return Shape.MESSAGES
    if text_field in row:
        return Shape.TEXT
    if "instruction" in row and "output" in row:
        return Shape.ALPACA
    raise _no_shape(row, text_field)


def _no_shape(row: dict[str, Any], text_field: str) -> BadRow:
    what = f"the columns {listed(row)} fit no known shape" if row else "the row has no columns"
    what += (
        f" (messages; prompt and completion; conversations; {text_field}; instruction and output; input_ids)"
    )
    return malformed(what, _fix(row, text_field), reason="unknown shape")


def _fix(row: dict[str, Any], text_field: str) -> str:
    """Guess what was meant: a partner that is missing, a misspelling, a question with its answer."""
    for have, need in (("prompt", "completion"), ("completion", "prompt"), ("instruction", "output")):
        if have in row and need not in row:
            meant = next((name for name in row if nearest(name, [need])), None)
            if meant is not None:
                return f"rename the column {meant} to {need}, or set dataset_mapping: {{{have}: {have}, {need}: {meant}}}"
    for name in row:
        known = nearest(name, (*CHAT_COLUMNS, text_field, "input_ids"))
        if known is not None:
            return f"rename the column {name} to {known}, or {_setting(known, name, text_field)}"
    question = next((name for name in QUESTIONS if isinstance(row.get(name), str)), None)
    answer = next((name for name in ANSWERS if isinstance(row.get(name), str)), None)
    if question and answer:
        return f"set dataset_mapping: {{user: {question}, assistant: {answer}}}"
    if isinstance(row.get("prompt"), str):
        return "add the column completion, or set dataset_text_field: prompt to train on all of it"
    return "set dataset_mapping, or dataset_text_field where a column is plain text to train on"


def _setting(known: str, name: str, text_field: str) -> str:
    if known in CHAT_COLUMNS:
        return f"set dataset_mapping: {{messages: {name}}}"
    if known == text_field:
        return f"set dataset_text_field: {name}"
    return "convert the rows with dataset_mapping: file.py:function"
