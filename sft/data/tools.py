"""Tools and calls of them: checked, and handed to the template as they are.

The arguments of a call stay as the row has them, JSON text or an object: some templates print the text, others walk
the object, and `apply_chat_template` alters neither.
"""

from __future__ import annotations

import json
from typing import Any

from sft.data.refusal import kind, listed, malformed, quote

CALL_FIX = 'write {"type": "function", "function": {"name": ..., "arguments": {...}}}'


def read_tools(value: Any) -> list[dict[str, Any]] | None:
    """Return the `tools` of a row: a list, or JSON text of one. None where there are none, as an empty list means.

    Raises:
        BadRow: it is neither, or an entry is no object.
    """
    if isinstance(value, str):
        value = _parsed(value, "tools", "tools", "write a JSON list of tools") if value.strip() else None
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise malformed(
            f"tools is {kind(value)}, not a list", "write a list of JSON schemas", reason="bad tools"
        )
    for number, tool in enumerate(value, 1):
        if not isinstance(tool, dict):
            what = f"tool {number} is {kind(tool)}, not an object"
            raise malformed(what, "write each tool as its JSON schema", reason="bad tools")
    return list(value) or None


def read_calls(value: Any, label: str) -> list[dict[str, Any]]:
    """Return the `tool_calls` of a message: a list of calls, or JSON text of one.

    Raises:
        BadRow: a call has no name, or arguments that are no JSON.
    """
    if isinstance(value, str):
        value = _parsed(value, f"tool_calls of {label}", "tool calls", "write a list of calls")
    if not isinstance(value, (list, tuple)):
        raise malformed(
            f"tool_calls of {label} is {kind(value)}, not a list",
            "write a list of calls",
            reason="bad tool calls",
        )
    for number, call in enumerate(value, 1):
        _check_call(call, f"tool call {number} of {label}")
    return list(value)


def parse_calls(text: str, label: str) -> list[dict[str, Any]]:
    """Make `tool_calls` of ShareGPT's text: a JSON object with name and arguments, or a list of them.

    Arguments that are JSON text inside the JSON become the object that they spell, which is what most templates want.

    Raises:
        BadRow: it is no JSON, or has no name.
    """
    fix = 'write {"name": ..., "arguments": {...}}'
    parsed = _parsed(text, f"the function call of {label}", "tool calls", fix)
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not calls:
        raise malformed(f"the function call of {label} is an empty list", fix, reason="bad tool calls")
    made = []
    for number, call in enumerate(calls, 1):
        _check_call(call, f"tool call {number} of {label}")
        function = _function(call)
        arguments = function.get("arguments", function.get("parameters"))
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        inner = {"name": function["name"], "arguments": {} if arguments is None else arguments}
        made.append({"type": "function", "function": inner})
    return made


def _function(call: dict[str, Any]) -> Any:
    """Return where name and arguments stand: under `function`, or in the call itself."""
    return call if call.get("function") is None else call["function"]


def _check_call(call: Any, label: str) -> None:
    if not isinstance(call, dict):
        raise malformed(f"{label} is {kind(call)}, not an object", CALL_FIX, reason="bad tool calls")
    function = _function(call)
    if not isinstance(function, dict):
        raise malformed(
            f"the function of {label} is {kind(function)}, not an object", CALL_FIX, reason="bad tool calls"
        )
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise malformed(f"{label} has no name; it has {listed(function)}", CALL_FIX, reason="bad tool calls")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        _parsed(arguments, f"arguments of {label}", "tool calls", "write a JSON object, {} for no arguments")


def _parsed(text: str, what: str, reason: str, fix: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        problem = str(error).partition(":")[0]
        raise malformed(
            f"{what} is no JSON: {quote(text)} ({problem[:1].lower()}{problem[1:]})",
            fix,
            reason=f"bad {reason}",
        ) from None
    except RecursionError:
        raise malformed(f"{what} is nested too deep to be read", fix, reason=f"bad {reason}") from None
