"""ShareGPT's turns become messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sft.data.convert import Converter, ConvertSettings
from sft.data.sample import BadRow, Chat
from sft.data.shapes import Shape
from sft.data.sharegpt import NAMES

HUMAN = {"from": "human", "value": "Hi"}
GPT = {"from": "gpt", "value": "Hello"}
USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}


def convert(row: dict[str, Any]) -> tuple[Shape, Chat]:
    shape, sample = Converter(ConvertSettings()).convert(row)
    assert isinstance(sample, Chat)
    return shape, sample


@pytest.mark.parametrize("column", ["conversations", "conversation", "messages"])
def test_turns_become_messages(column: str) -> None:
    assert convert({column: [HUMAN, GPT]}) == (Shape.SHAREGPT, Chat([USER, ANSWER]))


@pytest.mark.parametrize(
    ("name", "role"),
    [(name, role) for role, names in NAMES.items() if role != "function_call" for name in names],
)
def test_name_of_a_role(name: str, role: str) -> None:
    for written in (name, name.upper(), f" {name}"):
        _, sample = convert({"conversations": [HUMAN, GPT, {"from": written, "value": "x"}]})
        assert sample.messages[2] == {"role": role, "content": "x"}


def test_role_and_content_in_conversations_may_have_those_names_too() -> None:
    row = {"conversations": [{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Hello"}]}
    assert convert(row) == (Shape.MESSAGES, Chat([USER, ANSWER]))


@pytest.mark.parametrize(
    ("value", "calls"),
    [
        ('{"name": "weather", "arguments": {"city": "Oslo"}}', [("weather", {"city": "Oslo"})]),
        ('{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}', [("weather", {"city": "Oslo"})]),
        ('[{"name": "a", "parameters": {"x": 1}}, {"name": "b"}]', [("a", {"x": 1}), ("b", {})]),
        ('{"type": "function", "function": {"name": "a", "arguments": {}}}', [("a", {})]),
    ],
    ids=["object", "arguments as text", "list", "wrapped"],
)
def test_function_call_and_observation(value: str, calls: list[tuple[str, Any]]) -> None:
    turns = [HUMAN, {"from": "function_call", "value": value}, {"from": "observation", "value": "22"}, GPT]
    tool = {"type": "function", "function": {"name": "weather"}}
    _, sample = convert({"conversations": turns, "tools": json.dumps([tool])})
    made = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in calls]
    assert sample == Chat(
        [
            USER,
            {"role": "assistant", "content": "", "tool_calls": made},
            {"role": "tool", "content": "22"},
            ANSWER,
        ],
        [tool],
    )


def test_system_column_comes_first() -> None:
    system = {"role": "system", "content": "Be kind"}
    beside = {"from": "system", "value": "Be kind"}
    expected = Chat([system, USER, ANSWER])
    assert convert({"system": "Be kind", "conversations": [HUMAN, GPT]})[1] == expected
    assert convert({"system": "Be kind", "conversations": [beside, HUMAN, GPT]})[1] == expected
    assert convert({"system": "Be kind", "conversations": [USER, ANSWER]})[1] == expected
    assert convert({"system": "", "conversations": [HUMAN, GPT]})[1] == Chat([USER, ANSWER])


def test_weights_of_turns() -> None:
    turns = [{**HUMAN, "weight": None}, {**GPT, "weight": 0}, HUMAN, {**GPT, "weight": 1}]
    assert convert({"conversations": turns})[1] == Chat(
        [USER, ANSWER, USER, ANSWER], trained=(None, False, None, True)
    )


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ([HUMAN, {"from": "gpt", "value": None}], "value of message 2 is null"),
        ([HUMAN, {"from": "gpt", "value": " "}], "the answer of message 2 is empty"),
        ([HUMAN, {"from": "gpt", "value": 3}], "value of message 2 is a number, not text"),
        ([HUMAN, {"value": "Hello"}], "message 2 has no from; it has value"),
        ([HUMAN, "Hello"], "message 2 is text, not an object"),
        ([HUMAN], "the chat has no assistant message; its roles are user"),
        ([HUMAN, {"from": "tool_call", "value": "[]"}], "the function call of message 2 is an empty list"),
        (
            [HUMAN, {"from": "tool_call", "value": {"name": "f"}}],
            "value of message 2 is an object, not text",
        ),
        (
            [{"from": "tool", "value": "22"}, GPT],
            "message 1 is a tool's answer, and no assistant message comes before it",
        ),
    ],
)
def test_turn_that_cannot_be_trained(turns: list[Any], what: str) -> None:
    with pytest.raises(BadRow) as caught:
        convert({"conversations": turns})
    assert caught.value.what == what
