"""Alpaca: `instruction`, `input` and `output`, with optional `system` and `history`."""

from __future__ import annotations

from typing import Any

from sft.data.messages import empty_answer
from sft.data.refusal import kind, malformed, nothing_to_learn
from sft.data.sample import Message


def to_messages(row: dict[str, Any]) -> list[Message]:
    """Make a chat whose last message is the answer.

    The input is joined to the instruction by one newline; where one of them is empty or null, the other stands alone.

    Raises:
        BadRow: a column is no text, or the output is empty.
    """
    instruction, extra, output = row["instruction"], row.get("input"), row["output"]
    if type(output) is not str or not output or output.isspace():
        if output is None or isinstance(output, str):
            what = "output is null" if output is None else "output is empty"
            raise nothing_to_learn(what, "fill it, or remove the row", reason="empty answer")
        raise _no_text("output", output)
    if type(instruction) is not str:
        if instruction is None:
            raise nothing_to_learn("instruction is null", "fill it, or remove the row", reason="null content")
        raise _no_text("instruction", instruction)
    if extra:
        if type(extra) is not str:
            raise _no_text("input", extra)
        instruction = f"{instruction}\n{extra}" if instruction else extra
    messages: list[Message] = []
    system, history = row.get("system"), row.get("history")
    if system:
        if type(system) is not str:
            raise _no_text("system", system)
        messages.append({"role": "system", "content": system})
    if history:
        messages += _past(history)
    messages.append({"role": "user", "content": instruction})
    messages.append({"role": "assistant", "content": output})
    return messages


def _past(history: Any) -> list[Message]:
    if not isinstance(history, (list, tuple)):
        raise malformed(
            f"history is {kind(history)}, not a list",
            "write a list of [question, answer]",
            reason="bad history",
        )
    messages: list[Message] = []
    for number, turn in enumerate(history, 1):
        pair = isinstance(turn, (list, tuple)) and len(turn) == 2
        if not pair or not all(isinstance(text, str) for text in turn):
            raise malformed(
                f"turn {number} of history is no pair of texts",
                "write [question, answer]",
                reason="bad history",
            )
        question, answer = turn
        if not answer or answer.isspace():
            raise empty_answer(f"turn {number} of history")
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return messages


def _no_text(column: str, value: Any) -> Exception:
    return malformed(f"{column} is {kind(value)}, not text", "write it as text", reason="bad content")
