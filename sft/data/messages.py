"""The messages of a chat: checked, and brought to what chat templates read.

Changed are only: keys that are null are dropped (as `apply_chat_template` does), typed parts become text, and the
flags `train`, `weight` and `loss_weight` are taken out. Everything else a template may read stays as it is.

The order of roles is the template's to judge, as families differ: system messages may repeat or come late, users may
speak twice, an assistant may open, a user may have the last word. Refused is what is never right: a chat with no
assistant message, and a tool's answer before any assistant message.
"""

from __future__ import annotations

from typing import Any

from sft.data.parts import join_parts
from sft.data.refusal import FUNCTION_FIX, kind, listed, malformed, nearest, nothing_to_learn, quote
from sft.data.sample import BadRow, Message
from sft.data.sharegpt import role_meant
from sft.data.tools import read_calls

ROLES = ("user", "assistant", "system", "developer", "tool", "ipython", "function")
TOOL_ROLES = ("tool", "ipython", "function")
FLAGS = ("train", "weight", "loss_weight")

Trained = tuple[bool | None, ...]


def read_messages(raw: Any, column: str, split: int | None = None) -> tuple[list[Message], Trained]:
    """Return the messages, and what they say of their loss (empty if they say nothing).

    Args:
        column: what the list is called, for errors.
        split: how many of the messages are the prompt, where prompt and completion were joined.
    Raises:
        BadRow: they cannot be trained on.
    """
    if not isinstance(raw, (list, tuple)):
        raise _no_list(raw, column)
    messages: list[Message] = []
    flags: dict[int, bool] = {}
    answered = False
    for number, message in enumerate(raw):
        if type(message) is dict and len(message) == 2:  # the common case, and the only one that must be fast
            role, content = message.get("role"), message.get("content")
            if type(content) is str:
                if role == "user" or role == "system":
                    messages.append(message)
                    continue
                if role == "assistant" and content and not content.isspace():
                    messages.append(message)
                    answered = True
                    continue
        label = message_label(number, split)
        read, flag = _read(message, label)
        if read["role"] == "assistant":
            answered = True
        elif read["role"] in TOOL_ROLES and not answered:
            raise malformed(
                f"{label} is a tool's answer, and no assistant message comes before it",
                "put the assistant message that calls the tool before it",
                reason="roles out of order",
            )
        if flag is not None:
            flags[number] = flag
        messages.append(read)
    if not answered or (split and not any(message["role"] == "assistant" for message in messages[split:])):
        raise _no_answer(messages, column, split)
    if not flags:
        return messages, ()
    trained = tuple([flags.get(number) for number in range(len(messages))])
    if all(
        flag is False
        for message, flag in zip(messages, trained, strict=True)
        if message["role"] == "assistant"
    ):
        what = "no assistant message of this chat is trained: each says so itself"
        raise nothing_to_learn(what, "set train: true on one, or remove the row", reason="nothing trained")
    return messages, trained


def message_label(number: int, split: int | None) -> str:
    """Name a message for people, counted from 1."""
    if split is None:
        return f"message {number + 1}"
    if number < split:
        return f"message {number + 1} of prompt"
    return f"message {number - split + 1} of completion"


def empty_answer(label: str) -> BadRow:
    return nothing_to_learn(
        f"the answer of {label} is empty", "fill it, or remove the row", reason="empty answer"
    )


def _read(raw: Any, label: str) -> tuple[Message, bool | None]:
    """Check one message and return it as the template shall see it, with its flag."""
    if not isinstance(raw, dict):
        raise malformed(
            f"{label} is {kind(raw)}, not an object",
            "write each message as role and content",
            reason="bad message",
        )
    message = {key: value for key, value in raw.items() if value is not None}
    role = _role(message, label)
    flag = _take_flag(message, role, label)
    if "tool_calls" in message:
        if role != "assistant":
            raise malformed(
                f"{label} has tool_calls and role {role!r}",
                "move them to an assistant message",
                reason="bad tool calls",
            )
        message["tool_calls"] = read_calls(message["tool_calls"], label)
    calls = bool(message.get("tool_calls"))
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        content = message["content"] = join_parts(content, message, label)
    elif content is None:
        if not calls:
            raise _no_content(raw, label)
        return message, flag
    elif not isinstance(content, str):
        raise malformed(
            f"content of {label} is {kind(content)}, not text", "write it as text", reason="bad content"
        )
    if role == "assistant" and not calls and flag is not False and (not content or content.isspace()):
        raise empty_answer(label)
    return message, flag


def _role(message: Message, label: str) -> str:
    role = message.get("role")
    if role is None:
        meant = next((key for key in message if nearest(key, ["role"])), None)
        fix = f"rename {meant} to role" if meant else f"write role, {FUNCTION_FIX}"
        raise malformed(f"{label} has no role; it has {listed(message)}", fix, reason="role missing")
    if not isinstance(role, str):
        raise malformed(
            f"role of {label} is {kind(role)}, not text", f"use one of {listed(ROLES)}", reason="bad role"
        )
    if role not in ROLES:
        meant = role_meant(role) or nearest(role, ROLES)
        fix = f"write {meant!r} instead, " if meant else f"use one of {listed(ROLES)}, "
        raise malformed(
            f"{label} has the unknown role {quote(role)}", fix + FUNCTION_FIX, reason="unknown role"
        )
    return role


def _take_flag(message: Message, role: str, label: str) -> bool | None:
    """Take the flags out of a message, and return what they say together."""
    found: bool | None = None
    for key in FLAGS:
        if key not in message:
            continue
        value = message.pop(key)
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            shown = value if isinstance(value, (int, float)) else quote(value)
            raise malformed(
                f"{key} of {label} is {shown}; a message is trained or it is not",
                "use 0 or 1",
                reason="bad weight",
            )
        flag = bool(value)
        if found is not None and flag is not found:
            raise malformed(
                f"{label} is to be trained by one of its flags and not by another",
                "keep one",
                reason="bad weight",
            )
        found = flag
    if found and role != "assistant":
        raise malformed(
            f"{label} is to be trained and has role {role!r}",
            "remove the flag: only assistant messages can be trained by themselves",
            reason="bad weight",
        )
    return found


def _no_content(raw: Message, label: str) -> BadRow:
    if "content" in raw:
        return nothing_to_learn(
            f"content of {label} is null", "fill it, or remove the row", reason="null content"
        )
    meant = next((key for key in raw if nearest(key, ["content", "text", "value"])), None)
    fix = f"rename {meant} to content" if meant else f"write content, {FUNCTION_FIX}"
    return malformed(f"{label} has no content; it has {listed(raw)}", fix, reason="content missing")


def _no_list(raw: Any, column: str) -> BadRow:
    if raw is None:
        return nothing_to_learn(f"{column} is null", "fill it, or remove the row", reason="null messages")
    if isinstance(raw, str) and raw.lstrip().startswith(("[", "{")):
        what, fix = f"{column} is JSON text, not a list", f"store the list itself, {FUNCTION_FIX}"
    elif isinstance(raw, str):
        what = f"{column} is text, not a list of messages"
        fix = f"set dataset_mapping: {{text: {column}}} to train on it as it stands, {FUNCTION_FIX}"
    else:
        what = f"{column} is {kind(raw)}, not a list of messages"
        fix = f"write a list of objects with role and content, {FUNCTION_FIX}"
    return malformed(what, fix, reason="bad messages")


def _no_answer(messages: list[Message], column: str, split: int | None) -> BadRow:
    if split is not None and len(messages) == split:
        return nothing_to_learn(
            "completion is an empty list", "fill it, or remove the row", reason="empty answer"
        )
    if not messages:
        return nothing_to_learn(
            f"{column} is an empty list", "fill it, or remove the row", reason="empty chat"
        )
    rest = messages[split:]
    where = "the chat" if split is None else "the completion"
    return malformed(
        f"{where} has no assistant message; its roles are {listed(message['role'] for message in rest)}",
        "add the answer, or remove the row",
        reason="assistant turn missing",
    )
