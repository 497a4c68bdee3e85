"""Rows that cannot be trained, each with all that a user is told of it.

A list and not tests, as it is read three times: by the converter's tests, through the command line, and for the table
in the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MINE = """\
def drop(row):
    return None


def fail(row):
    return {"text": row["question"]}


def nonsense(row):
    return 3


def rename(row):
    return {"question": row["q"]}


def listed(row):
    return [row["q"]]
"""
"""The user's own file, `{here}/mine.py` in the settings and messages."""


@dataclass(frozen=True)
class BadRowCase:
    """One bad input.

    Attributes:
        name: unlike every other's.
        phrase: what is wrong, for the table.
        rows: the last of them is the bad one.
        what: the whole first line of the message.
        fix: the whole fix.
        reason: under what it is counted; None where it is the user's own code that fails, which stops the run.
        malformed: whether the run is refused unless `bad_rows: drop`.
        settings: keys of the run file.
        where: the place that is told, where it is not the row.
    """

    name: str
    phrase: str
    rows: tuple[Mapping[str, Any], ...]
    what: str
    fix: str
    reason: str | None = None
    malformed: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    where: str | None = None

    def in_folder(self, here: Path) -> BadRowCase:
        """Write the user's own file to a folder and name it in settings and messages."""
        (here / "mine.py").write_text(MINE)

        def named(value: Any) -> Any:
            return value.replace("{here}", str(here)) if isinstance(value, str) else value

        return BadRowCase(
            self.name,
            self.phrase,
            self.rows,
            named(self.what),
            named(self.fix),
            named(self.reason),
            self.malformed,
            {key: named(value) for key, value in self.settings.items()},
            named(self.where),
        )


BAD_ROWS = [
    BadRowCase(
        "columns of no shape",
        "columns of no known shape",
        ({"question": "Hi", "answer": "Hello"},),
        what="the columns question, answer fit no known shape (messages; prompt and completion; conversations; text; instruction and output; input_ids)",
        fix="set dataset_mapping: {user: question, assistant: answer}",
        reason="unknown shape",
    ),
    BadRowCase(
        "a misspelt column",
        "a misspelt column",
        (
            {
                "mesages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                "id": 3,
            },
        ),
        what="the columns mesages, id fit no known shape (messages; prompt and completion; conversations; text; instruction and output; input_ids)",
        fix="rename the column mesages to messages, or set dataset_mapping: {messages: mesages}",
        reason="unknown shape",
    ),
    BadRowCase(
        "a prompt alone",
        "`prompt` without `completion`",
        ({"prompt": "Hi", "id": 3},),
        what="the columns prompt, id fit no known shape (messages; prompt and completion; conversations; text; instruction and output; input_ids)",
        fix="add the column completion, or set dataset_text_field: prompt to train on all of it",
        reason="unknown shape",
    ),
    BadRowCase(
        "a misspelt partner",
        "a misspelt `completion`",
        ({"prompt": "Hi", "completions": "Hello"},),
        what="the columns prompt, completions fit no known shape (messages; prompt and completion; conversations; text; instruction and output; input_ids)",
        fix="rename the column completions to completion, or set dataset_mapping: {prompt: prompt, completion: completions}",
        reason="unknown shape",
    ),
    BadRowCase(
        "no column at all",
        "an empty row",
        ({},),
        what="the row has no columns (messages; prompt and completion; conversations; text; instruction and output; input_ids)",
        fix="set dataset_mapping, or dataset_text_field where a column is plain text to train on",
        reason="unknown shape",
    ),
    BadRowCase(
        "no such text column",
        "`dataset_text_field` names no column",
        ({"body": "Hi", "id": 3},),
        what="the columns body, id fit no known shape (messages; prompt and completion; conversations; story; instruction and output; input_ids)",
        fix="set dataset_mapping, or dataset_text_field where a column is plain text to train on",
        reason="unknown shape",
        settings={"dataset_text_field": "story"},
    ),
    BadRowCase(
        "messages null",
        "`messages` is null",
        ({"messages": None},),
        what="messages is null",
        fix="fill it, or remove the row",
        reason="null messages",
        malformed=False,
    ),
    BadRowCase(
        "messages empty",
        "`messages` is an empty list",
        ({"messages": []},),
        what="messages is an empty list",
        fix="fill it, or remove the row",
        reason="empty chat",
        malformed=False,
    ),
    BadRowCase(
        "messages an object",
        "`messages` is an object",
        ({"messages": {"role": "user", "content": "Hi"}},),
        what="messages is an object, not a list of messages",
        fix="write a list of objects with role and content, or convert the rows with dataset_mapping: file.py:function",
        reason="bad messages",
    ),
    BadRowCase(
        "messages text",
        "`messages` is text",
        ({"messages": "Hi there"},),
        what="messages is text, not a list of messages",
        fix="set dataset_mapping: {text: messages} to train on it as it stands, or convert the rows with dataset_mapping: file.py:function",
        reason="bad messages",
    ),
    BadRowCase(
        "messages JSON text",
        "`messages` is JSON text",
        ({"messages": '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'},),
        what="messages is JSON text, not a list",
        fix="store the list itself, or convert the rows with dataset_mapping: file.py:function",
        reason="bad messages",
    ),
    BadRowCase(
        "messages a number",
        "`messages` is a number",
        ({"messages": 3},),
        what="messages is a number, not a list of messages",
        fix="write a list of objects with role and content, or convert the rows with dataset_mapping: file.py:function",
        reason="bad messages",
    ),
    BadRowCase(
        "a message that is text",
        "a message that is text",
        ({"messages": ["Hi", {"role": "assistant", "content": "Hello"}]},),
        what="message 1 is text, not an object",
        fix="write each message as role and content",
        reason="bad message",
    ),
    BadRowCase(
        "role missing",
        "a message without a role",
        ({"messages": [{"content": "Hi", "rol": "user"}, {"role": "assistant", "content": "Hello"}]},),
        what="message 1 has no role; it has content, rol",
        fix="rename rol to role",
        reason="role missing",
    ),
    BadRowCase(
        "role null",
        "a role that is null",
        ({"messages": [{"role": None, "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},),
        what="message 1 has no role; it has content",
        fix="write role, or convert the rows with dataset_mapping: file.py:function",
        reason="role missing",
    ),
    BadRowCase(
        "role a number",
        "a role that is a number",
        ({"messages": [{"role": 1, "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},),
        what="role of message 1 is a number, not text",
        fix="use one of user, assistant, system, developer, tool, ipython, function",
        reason="bad role",
    ),
    BadRowCase(
        "an unknown role",
        "a role no template knows",
        ({"messages": [{"role": "narrator", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},),
        what="message 1 has the unknown role 'narrator'",
        fix="use one of user, assistant, system, developer, tool, ipython, function, or convert the rows with dataset_mapping: file.py:function",
        reason="unknown role",
    ),
    BadRowCase(
        "a ShareGPT role in messages",
        "ShareGPT's role names in `messages`",
        ({"messages": [{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Hello"}]},),
        what="message 1 has the unknown role 'human'",
        fix="write 'user' instead, or convert the rows with dataset_mapping: file.py:function",
        reason="unknown role",
    ),
    BadRowCase(
        "a role in capitals",
        "a role in capitals",
        ({"messages": [{"role": "User", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},),
        what="message 1 has the unknown role 'User'",
        fix="write 'user' instead, or convert the rows with dataset_mapping: file.py:function",
        reason="unknown role",
    ),
    BadRowCase(
        "content missing",
        "a message without content",
        ({"messages": [{"role": "user", "contents": "Hi"}, {"role": "assistant", "content": "Hello"}]},),
        what="message 1 has no content; it has role, contents",
        fix="rename contents to content",
        reason="content missing",
    ),
    BadRowCase(
        "content null",
        "content that is null",
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]},),
        what="content of message 2 is null",
        fix="fill it, or remove the row",
        reason="null content",
        malformed=False,
    ),
    BadRowCase(
        "content a number",
        "content that is a number",
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": 4}]},),
        what="content of message 2 is a number, not text",
        fix="write it as text",
        reason="bad content",
    ),
    BadRowCase(
        "content an object",
        "content that is an object",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": {"text": "Hello"}},
                ]
            },
        ),
        what="content of message 2 is an object, not text",
        fix="write it as text",
        reason="bad content",
    ),
    BadRowCase(
        "an empty answer",
        "an empty answer",
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]},),
        what="the answer of message 2 is empty",
        fix="fill it, or remove the row",
        reason="empty answer",
        malformed=False,
    ),
    BadRowCase(
        "a blank answer",
        "an answer of white space",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello"},
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": " \n"},
                ]
            },
        ),
        what="the answer of message 4 is empty",
        fix="fill it, or remove the row",
        reason="empty answer",
        malformed=False,
    ),
    BadRowCase(
        "assistant missing",
        "no assistant message",
        ({"messages": [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]},),
        what="the chat has no assistant message; its roles are system, user",
        fix="add the answer, or remove the row",
        reason="assistant turn missing",
    ),
    BadRowCase(
        "a tool's answer to nobody",
        "a tool's answer before any assistant message",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "tool", "content": "22"},
                    {"role": "assistant", "content": "Hello"},
                ]
            },
        ),
        what="message 2 is a tool's answer, and no assistant message comes before it",
        fix="put the assistant message that calls the tool before it",
        reason="roles out of order",
    ),
    BadRowCase(
        "an image part",
        "an image among the parts of a message",
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]},
                    {"role": "assistant", "content": "Hello"},
                ]
            },
        ),
        what="message 1 holds a part of type image",
        fix="remove it, or train a vision model with TRL itself: this kit trains text",
        reason="not text",
    ),
    BadRowCase(
        "audio by its key",
        "an audio part without a type",
        (
            {
                "messages": [
                    {"role": "user", "content": [{"input_audio": {"data": "x"}}]},
                    {"role": "assistant", "content": "Hello"},
                ]
            },
        ),
        what="message 1 holds a part of type input_audio",
        fix="remove it, or train a vision model with TRL itself: this kit trains text",
        reason="not text",
    ),
    BadRowCase(
        "an images column",
        "images beside the messages",
        (
            {
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                "images": ["cat.png"],
            },
        ),
        what="the row has something in its column images",
        fix="remove it, or train a vision model with TRL itself: this kit trains text",
        reason="not text",
    ),
    BadRowCase(
        "an unknown part",
        "a part of an unknown type",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]},
                ]
            },
        ),
        what="a part of message 2 has the unknown type 'tool_use'",
        fix="use one of text, thinking, reasoning",
        reason="bad content",
    ),
    BadRowCase(
        "a part without text",
        "a text part without text",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": [{"type": "text", "text": None}]},
                ]
            },
        ),
        what="a part of message 2 has no text",
        fix="fill it, or remove the row",
        reason="null content",
        malformed=False,
    ),
    BadRowCase(
        "reasoning of a user",
        "a reasoning part in a user's message",
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "thinking", "thinking": "hm"}]},
                    {"role": "assistant", "content": "Hello"},
                ]
            },
        ),
        what="message 1 has reasoning and role 'user'",
        fix="keep it once, in assistant messages alone",
        reason="bad content",
    ),
    BadRowCase(
        "half a weight",
        "a loss weight between 0 and 1",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello", "weight": 0.5},
                ]
            },
        ),
        what="weight of message 2 is 0.5; a message is trained or it is not",
        fix="use 0 or 1",
        reason="bad weight",
    ),
    BadRowCase(
        "train as text",
        "`train` that is text",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello", "train": "yes"},
                ]
            },
        ),
        what="train of message 2 is 'yes'; a message is trained or it is not",
        fix="use 0 or 1",
        reason="bad weight",
    ),
    BadRowCase(
        "a user to be trained",
        "`train: true` on a user's message",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi", "train": True},
                    {"role": "assistant", "content": "Hello"},
                ]
            },
        ),
        what="message 1 is to be trained and has role 'user'",
        fix="remove the flag: only assistant messages can be trained by themselves",
        reason="bad weight",
    ),
    BadRowCase(
        "two flags at odds",
        "`train` and `weight` that disagree",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello", "train": True, "weight": 0},
                ]
            },
        ),
        what="message 2 is to be trained by one of its flags and not by another",
        fix="keep one",
        reason="bad weight",
    ),
    BadRowCase(
        "nothing to be trained",
        "`train: false` on every answer",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello", "train": False},
                ]
            },
        ),
        what="no assistant message of this chat is trained: each says so itself",
        fix="set train: true on one, or remove the row",
        reason="nothing trained",
        malformed=False,
    ),
    BadRowCase(
        "calls of broken JSON",
        "`tool_calls` of broken JSON",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "tool_calls": '[{"name": "f"'},
                ]
            },
        ),
        what="tool_calls of message 2 is no JSON: '[{\"name\": \"f\"' (expecting ',' delimiter)",
        fix="write a list of calls",
        reason="bad tool calls",
    ),
    BadRowCase(
        "arguments of broken JSON",
        "arguments of broken JSON",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"type": "function", "function": {"name": "f", "arguments": '{"city": '}}
                        ],
                    },
                ]
            },
        ),
        what="arguments of tool call 1 of message 2 is no JSON: '{\"city\": ' (expecting value)",
        fix="write a JSON object, {} for no arguments",
        reason="bad tool calls",
    ),
    BadRowCase(
        "a call without a name",
        "a tool call without a name",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {
                        "role": "assistant",
                        "tool_calls": [{"type": "function", "function": {"arguments": {}}}],
                    },
                ]
            },
        ),
        what="tool call 1 of message 2 has no name; it has arguments",
        fix='write {"type": "function", "function": {"name": ..., "arguments": {...}}}',
        reason="bad tool calls",
    ),
    BadRowCase(
        "calls of a user",
        "`tool_calls` in a user's message",
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi", "tool_calls": [{"name": "f", "arguments": {}}]},
                    {"role": "assistant", "content": "Hello"},
                ]
            },
        ),
        what="message 1 has tool_calls and role 'user'",
        fix="move them to an assistant message",
        reason="bad tool calls",
    ),
    BadRowCase(
        "tools of broken JSON",
        "`tools` of broken JSON",
        (
            {
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                "tools": "[{'name': 'f'}]",
            },
        ),
        what="tools is no JSON: \"[{'name': 'f'}]\" (expecting property name enclosed in double quotes)",
        fix="write a JSON list of tools",
        reason="bad tools",
    ),
    BadRowCase(
        "tools an object",
        "`tools` is an object",
        (
            {
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                "tools": {"name": "f"},
            },
        ),
        what="tools is an object, not a list",
        fix="write a list of JSON schemas",
        reason="bad tools",
    ),
    BadRowCase(
        "a tool that is text",
        "a tool that is text",
        (
            {
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                "tools": ["search"],
            },
        ),
        what="tool 1 is text, not an object",
        fix="write each tool as its JSON schema",
        reason="bad tools",
    ),
    BadRowCase(
        "template variables as text",
        "`chat_template_kwargs` is text",
        (
            {
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                "chat_template_kwargs": "enable_thinking",
            },
        ),
        what="chat_template_kwargs is text, not an object",
        fix="write an object of the template's variables",
        reason="bad template variables",
    ),
    BadRowCase(
        "a template in the row",
        "`chat_template_kwargs` that sets the template",
        (
            {
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                "chat_template_kwargs": {"chat_template": "x"},
            },
        ),
        what="chat_template_kwargs sets chat_template, which is no variable of the template",
        fix="remove it from the row",
        reason="bad template variables",
    ),
    BadRowCase(
        "prompt text, completion messages",
        "prompt as text, completion as messages",
        ({"prompt": "Hi", "completion": [{"role": "assistant", "content": "Hello"}]},),
        what="prompt is text and completion is a list",
        fix="make both text, or both lists of messages",
        reason="bad prompt and completion",
    ),
    BadRowCase(
        "prompt messages, completion text",
        "prompt as messages, completion as text",
        ({"prompt": [{"role": "user", "content": "Hi"}], "completion": "Hello"},),
        what="prompt is a list and completion is text",
        fix="make both text, or both lists of messages",
        reason="bad prompt and completion",
    ),
    BadRowCase(
        "an empty completion",
        "an empty completion",
        ({"prompt": "Hi", "completion": ""},),
        what="completion is empty",
        fix="fill it, or remove the row",
        reason="empty answer",
        malformed=False,
    ),
    BadRowCase(
        "a completion without an answer",
        "a completion without an assistant message",
        (
            {
                "prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
                "completion": [{"role": "user", "content": "Hi"}],
            },
        ),
        what="the completion has no assistant message; its roles are user",
        fix="add the answer, or remove the row",
        reason="assistant turn missing",
    ),
    BadRowCase(
        "a null completion",
        "a completion that is null",
        ({"prompt": "Hi", "completion": None},),
        what="completion is null",
        fix="fill it, or remove the row",
        reason="empty answer",
        malformed=False,
    ),
    BadRowCase(
        "text null",
        "`text` is null",
        ({"text": None},),
        what="text is null",
        fix="fill it, or remove the row",
        reason="empty text",
        malformed=False,
    ),
    BadRowCase(
        "text a number",
        "`text` is a number",
        ({"text": 3},),
        what="text is a number, not text",
        fix="write it as text",
        reason="bad content",
    ),
    BadRowCase(
        "alpaca without an answer",
        "alpaca's `output` is empty",
        ({"instruction": "Say hi", "input": "", "output": ""},),
        what="output is empty",
        fix="fill it, or remove the row",
        reason="empty answer",
        malformed=False,
    ),
    BadRowCase(
        "alpaca's input a list",
        "alpaca's `input` is a list",
        ({"instruction": "Say hi", "input": ["a"], "output": "Hello"},),
        what="input is a list, not text",
        fix="write it as text",
        reason="bad content",
    ),
    BadRowCase(
        "a broken history",
        "alpaca's `history` with half a turn",
        ({"instruction": "Say hi", "output": "Hello", "history": [["Hi"]]},),
        what="turn 1 of history is no pair of texts",
        fix="write [question, answer]",
        reason="bad history",
    ),
    BadRowCase(
        "an unknown ShareGPT role",
        "a role that ShareGPT does not have",
        ({"conversations": [{"from": "humman", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},),
        what="message 1 is from the unknown role 'humman'",
        fix="write 'human' instead, or convert the rows with dataset_mapping: file.py:function",
        reason="unknown role",
    ),
    BadRowCase(
        "a turn without value",
        "a ShareGPT turn without a value",
        ({"conversations": [{"from": "human", "text": "Hi"}, {"from": "gpt", "value": "Hello"}]},),
        what="message 1 has no value; it has from, text",
        fix="rename text to value",
        reason="content missing",
    ),
    BadRowCase(
        "a function call that is no JSON",
        "a ShareGPT function call that is no JSON",
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "function_call", "value": "get_weather(Paris)"},
                ]
            },
        ),
        what="the function call of message 2 is no JSON: 'get_weather(Paris)' (expecting value)",
        fix='write {"name": ..., "arguments": {...}}',
        reason="bad tool calls",
    ),
    BadRowCase(
        "system twice",
        "a system column beside another system message",
        (
            {
                "system": "Be kind",
                "conversations": [
                    {"from": "system", "value": "Be brief"},
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello"},
                ],
            },
        ),
        what="system stands beside conversations, which opens with another system message",
        fix="keep one of them",
        reason="system twice",
    ),
    BadRowCase(
        "labels of another length",
        "labels of another length",
        ({"input_ids": [1, 2, 3], "labels": [1, 2]},),
        what="labels has 2 entries, and input_ids has 3",
        fix="make them equally long",
        reason="bad labels",
    ),
    BadRowCase(
        "shifted labels",
        "labels that are shifted",
        ({"input_ids": [1, 2, 3], "labels": [2, 3, -100]},),
        what="label 1 is 2, neither the token's own id 1 nor -100",
        fix="store labels that are not shifted: the model shifts them",
        reason="bad labels",
    ),
    BadRowCase(
        "negative ids",
        "a negative token id",
        ({"input_ids": [1, -2, 3]},),
        what="input_ids holds -2",
        fix="ids are 0 or more",
        reason="bad tokens",
    ),
    BadRowCase(
        "ids as text",
        "token ids as text",
        ({"input_ids": ["1", "2"]},),
        what="input_ids holds text, not whole numbers alone",
        fix="write whole numbers",
        reason="bad tokens",
    ),
    BadRowCase(
        "padded tokens",
        "tokens that are padded",
        ({"input_ids": [1, 2, 0, 0], "attention_mask": [1, 1, 0, 0]},),
        what="the row is padded: attention_mask is 0 in 2 of its 4 tokens",
        fix="store the rows without padding",
        reason="padded tokens",
    ),
    BadRowCase(
        "a mask of halves",
        "a mask that is not 0 and 1",
        ({"input_ids": [1, 2], "completion_mask": [0, 2]},),
        what="completion_mask holds more than 0 and 1",
        fix="use 1 where there is loss",
        reason="bad labels",
    ),
    BadRowCase(
        "all tokens masked",
        "labels without any loss",
        ({"input_ids": [1, 2], "labels": [-100, -100]},),
        what="no token of this row carries loss",
        fix="remove the row",
        reason="nothing trained",
        malformed=False,
    ),
    BadRowCase(
        "no tokens",
        "no tokens",
        ({"input_ids": []},),
        what="input_ids is an empty list",
        fix="remove the row",
        reason="no tokens",
        malformed=False,
    ),
    BadRowCase(
        "a mapping to no column",
        "`dataset_mapping` names a column that is not there",
        ({"question": "Hi", "answer": "Hello"},),
        what="user of dataset_mapping names the column 'questions', and the row has question, answer",
        fix="write question",
        reason="missing column",
        settings={"dataset_mapping": {"user": "questions", "assistant": "answer"}},
    ),
    BadRowCase(
        "a template of no column",
        "a template names a column that is not there",
        ({"q": "Hi", "a": "Hello"},),
        what="prompt of dataset_mapping names the column 'question', and the row has q, a",
        fix="name one of its columns",
        reason="missing column",
        settings={"dataset_mapping": {"prompt": "Q: {question}", "completion": "{a}"}},
    ),
    BadRowCase(
        "a template of a null",
        "a template writes a column that is null",
        ({"q": None, "a": "Hello"},),
        what="the column q is null, and prompt of dataset_mapping writes it",
        fix="fill it, or remove the row",
        reason="null column",
        malformed=False,
        settings={"dataset_mapping": {"prompt": "Q: {q}", "completion": "{a}"}},
    ),
    BadRowCase(
        "a template of a list",
        "a template writes a column that is a list",
        ({"q": ["Hi"], "a": "Hello"},),
        what="the column q is a list, and text of dataset_mapping writes it as text",
        fix="name a column of text, or map the rows with a function",
        reason="bad content",
        settings={"dataset_mapping": {"text": "{q} {a}"}},
    ),
    BadRowCase(
        "a number for an answer",
        "a mapped answer that is a number",
        ({"q": "Hi", "a": 4},),
        what="the column for assistant is a number, not text",
        fix="write {column} in braces to make text of a number; map a column of messages with messages",
        reason="bad content",
        settings={"dataset_mapping": {"user": "q", "assistant": "a"}},
    ),
    BadRowCase(
        "a function that drops",
        "a mapping function returns None",
        ({"q": "Hi"},),
        what="{here}/mine.py:drop returns None for it",
        fix="return a row from {here}/mine.py:drop to keep it",
        reason="dropped by {here}/mine.py:drop",
        malformed=False,
        settings={"dataset_mapping": "{here}/mine.py:drop"},
    ),
    BadRowCase(
        "a function that fails",
        "a mapping function raises",
        ({"q": "Hi"},),
        what="{here}/mine.py:fail fails on a row with q: KeyError: 'question'",
        fix="mend the function",
        settings={"dataset_mapping": "{here}/mine.py:fail"},
        where="{here}/mine.py:6",
    ),
    BadRowCase(
        "a function of nonsense",
        "a mapping function returns a number",
        ({"q": "Hi"},),
        what="{here}/mine.py:nonsense returns int, not a row",
        fix="return a dict of columns, text to train on, or None to drop the row",
        settings={"dataset_mapping": "{here}/mine.py:nonsense"},
        where="dataset_mapping",
    ),
    BadRowCase(
        "a function of another shape",
        "a mapping function returns a row of no shape",
        ({"q": "Hi"},),
        what="{here}/mine.py:rename returns a row: the columns question fit no known shape (messages; prompt and completion; conversations; text; instruction and output; input_ids)",
        fix="return the columns of one of them from {here}/mine.py:rename",
        reason="unknown shape",
        settings={"dataset_mapping": "{here}/mine.py:rename"},
    ),
    BadRowCase(
        "a formatting function of a list",
        "`formatting_func` returns a list",
        ({"q": "Hi"},),
        what="{here}/mine.py:listed returns list, not text",
        fix="return the text of the one row that it is given",
        settings={"formatting_func": "{here}/mine.py:listed"},
        where="formatting_func",
    ),
]
