"""ShareGPT: turns with `from` and `value`, in the many role names under which such sets were written."""

from __future__ import annotations

from typing import Any

from sft.data.refusal import FUNCTION_FIX, kind, listed, malformed, nearest, nothing_to_learn, quote
from sft.data.sample import Message
from sft.data.tools import parse_calls

CALL = "function_call"
NAMES = {
    "user": ("human", "user", "prompter", "customer"),
    "assistant": (
        "gpt",
        "assistant",
        "chatgpt",
        "bing",
        "bard",
        "claude",
        "model",
        "bot",
        "chatbot",
        "ai",
        "llm",
    ),
    "system": ("system", "system_prompt"),
    "developer": ("developer",),
    CALL: ("function_call", "function-call", "tool_call"),
    "tool": ("tool", "observation", "function_response", "function-response", "tool_response", "tool_result"),
    "ipython": ("ipython",),
    "function": ("function",),
}
ROLE_OF = {name: role for role, names in NAMES.items() for name in names}


def role_meant(name: str) -> str | None:
    """Return the role that a ShareGPT name stands for, where it is one."""
    role = ROLE_OF.get(name.strip().lower())
    return None if role == CALL else role


def rename_roles(messages: Any) -> Any:
    """Give messages of role and content the roles that ShareGPT's names stand for; what is none stays."""
    if not isinstance(messages, (list, tuple)):
        return messages
    renamed = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        meant = role_meant(role) if isinstance(role, str) else None
        renamed.append({**message, "role": meant} if meant is not None and meant != role else message)
    return renamed


def with_system(system: Any, turns: Any, column: str) -> Any:
    """Put the system message that stands beside a chat before it, in the chat's own form.

    Raises:
        BadRow: it is no text, or the chat opens with another one.
    """
    if not isinstance(system, str):
        raise malformed(f"system is {kind(system)}, not text", "write it as text", reason="bad content")
    if not isinstance(turns, (list, tuple)):
        return turns
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    role, content = ("from", "value") if "from" in first and "role" not in first else ("role", "content")
    if first.get(role) == "system":
        if first.get(content) == system:
            return turns
        what = f"system stands beside {column}, which opens with another system message"
        raise malformed(what, "keep one of them", reason="system twice")
    return [{role: "system", content: system}, *turns]


def to_messages(turns: Any) -> list[Message]:
    """Make messages of turns; a function call becomes an assistant message with `tool_calls`.

    Raises:
        BadRow: a turn is none, or has a role that is not known.
    """
    messages = []
    for number, turn in enumerate(turns, 1):
        if type(turn) is dict and len(turn) == 2:  # the common case
            value = turn.get("value")
            role = ROLE_OF.get(turn["from"]) if type(turn.get("from")) is str else None
            if role is not None and role is not CALL and type(value) is str:
                messages.append({"role": role, "content": value})
                continue
        messages.append(_to_message(turn, f"message {number}"))
    return messages


def _to_message(turn: Any, label: str) -> Message:
    if not isinstance(turn, dict):
        raise malformed(
            f"{label} is {kind(turn)}, not an object",
            "write each turn as from and value",
            reason="bad message",
        )
    role = _role(turn, label)
    if "value" not in turn:
        meant = next((key for key in turn if nearest(key, ["value", "content", "text"])), None)
        fix = f"rename {meant} to value" if meant else f"write value, {FUNCTION_FIX}"
        raise malformed(f"{label} has no value; it has {listed(turn)}", fix, reason="content missing")
    value = turn["value"]
    if value is None:
        raise nothing_to_learn(
            f"value of {label} is null", "fill it, or remove the row", reason="null content"
        )
    if not isinstance(value, (str, list)):
        raise malformed(
            f"value of {label} is {kind(value)}, not text", "write it as text", reason="bad content"
        )
    rest = {key: item for key, item in turn.items() if key not in ("from", "value")}
    if role != CALL:
        return {"role": role, "content": value, **rest}
    if not isinstance(value, str):
        raise malformed(
            f"value of {label} is {kind(value)}, not text", "write it as JSON text", reason="bad content"
        )
    # Empty and not absent: templates that need no content read both alike, and some cannot do without.
    return {"role": "assistant", "content": "", "tool_calls": parse_calls(value, label), **rest}


def _role(turn: dict[str, Any], label: str) -> str:
    name = turn.get("from")
    if name is None:
        raise malformed(
            f"{label} has no from; it has {listed(turn)}",
            f"write from, {FUNCTION_FIX}",
            reason="role missing",
        )
    if not isinstance(name, str):
        raise malformed(f"from of {label} is {kind(name)}, not text", "use human or gpt", reason="bad role")
    role = ROLE_OF.get(name.strip().lower())
    if role is None:
        meant = nearest(name, ROLE_OF)
        fix = f"write {meant!r} instead, " if meant else f"use one of {listed(ROLE_OF)}, "
        raise malformed(
            f"{label} is from the unknown role {quote(name)}", fix + FUNCTION_FIX, reason="unknown role"
        )
    return role
