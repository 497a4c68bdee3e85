"""Content in typed parts, and what of it this kit trains: text and reasoning."""

from __future__ import annotations

from typing import Any

from sft.data.refusal import kind, listed, malformed, nothing_to_learn, quote
from sft.data.sample import BadRow, Message

TEXT_PARTS = ("text", "input_text", "output_text")
REASONING_PARTS = ("thinking", "reasoning")
MEDIA = (
    "image",
    "image_url",
    "input_image",
    "audio",
    "audio_url",
    "input_audio",
    "video",
    "video_url",
    "file",
)


def join_parts(parts: Any, message: Message, label: str) -> str:
    """Join the text of typed parts with nothing between; reasoning goes to `reasoning_content`."""
    texts: list[str] = []
    reasoning: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise malformed(
                f"a part of {label} is {kind(part)}, not an object",
                "write type and text",
                reason="bad content",
            )
        sort = part.get("type")
        if sort is None:
            sort = next(
                (key for key in ("text", *REASONING_PARTS, *MEDIA) if part.get(key) is not None), None
            )
        if sort in TEXT_PARTS:
            texts.append(_part_text(part, ("text",), label))
        elif sort in REASONING_PARTS:
            reasoning.append(_part_text(part, ("thinking", "reasoning", "text"), label))
        elif sort in MEDIA:
            raise media(f"{label} holds a part of type {sort}")
        else:
            known = listed(("text", *REASONING_PARTS))
            raise malformed(
                f"a part of {label} has the unknown type {quote(sort)}",
                f"use one of {known}",
                reason="bad content",
            )
    if reasoning:
        role = message["role"]
        if role != "assistant" or any(key in message for key in ("reasoning_content", *REASONING_PARTS)):
            what = f"{label} has reasoning {'twice' if role == 'assistant' else f'and role {role!r}'}"
            raise malformed(what, "keep it once, in assistant messages alone", reason="bad content")
        message["reasoning_content"] = "".join(reasoning)
    return "".join(texts)


def _part_text(part: dict[str, Any], keys: tuple[str, ...], label: str) -> str:
    value = next((part[key] for key in keys if part.get(key) is not None), None)
    if value is None:
        raise nothing_to_learn(
            f"a part of {label} has no text", "fill it, or remove the row", reason="null content"
        )
    if not isinstance(value, str):
        raise malformed(
            f"text in a part of {label} is {kind(value)}", "write it as text", reason="bad content"
        )
    return value


def media(what: str) -> BadRow:
    """Make the refusal of what is not text."""
    fix = "remove it, or train a vision model with TRL itself: this kit trains text"
    return malformed(what, fix, reason="not text")
