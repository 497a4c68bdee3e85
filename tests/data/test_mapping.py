"""Rows whose columns have other names: by columns, by templates, by the user's own function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.data.convert import Converter, ConvertSettings
from sft.data.sample import BadRow, Chat, PromptCompletion, Sample, Text
from sft.errors import UserError

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind"}


def convert(row: dict[str, Any], mapping: Any, text_field: str = "text") -> Sample:
    return Converter(ConvertSettings(text_field, mapping)).convert(row)[1]


@pytest.mark.parametrize(
    ("mapping", "row", "sample"),
    [
        ({"text": "body"}, {"body": "Once", "messages": [USER]}, Text("Once")),
        ({"text": "{t}: {{{b}}}"}, {"t": "A", "b": 1.5}, Text("A: {1.5}")),
        ({"prompt": "q", "completion": "a"}, {"q": "Hi", "a": " Hello"}, PromptCompletion("Hi", " Hello")),
        (
            {"prompt": "Q: {the question}\nA:", "completion": " {a}"},
            {"the question": "Hi", "a": True},
            PromptCompletion("Q: Hi\nA:", " True"),
        ),
        ({"prompt": "q", "completion": "a"}, {"q": [USER], "a": [ANSWER]}, Chat([USER, ANSWER], None, 1)),
        ({"user": "q", "assistant": "a"}, {"q": "Hi", "a": "Hello"}, Chat([USER, ANSWER], None, 1)),
        (
            {"user": "{q}{x}", "assistant": "{a}", "system": "s", "tools": "t", "chat_template_kwargs": "k"},
            {"q": "H", "x": "i", "a": "Hello", "s": "Be kind", "t": '[{"name": "f"}]', "k": {"think": True}},
            Chat([SYSTEM, USER, ANSWER], [{"name": "f"}], 2, (), {"think": True}),
        ),
        (
            {"user": "q", "assistant": "a", "system": "s"},
            {"q": "Hi", "a": "Hello", "s": None},
            Chat([USER, ANSWER], None, 1),
        ),
        ({"messages": "chat"}, {"chat": [USER, ANSWER], "tools": "not read"}, Chat([USER, ANSWER])),
        (
            {"messages": "chat"},
            {"chat": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            Chat([USER, ANSWER]),
        ),
        (
            {"messages": "chat", "system": "s"},
            {"chat": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "s": "Be kind"},
            Chat([SYSTEM, USER, ANSWER]),
        ),
        ({"messages": "chat", "system": "s"}, {"chat": [USER, ANSWER], "s": ""}, Chat([USER, ANSWER])),
    ],
)
def test_row_by_columns_and_templates(mapping: dict[str, str], row: dict[str, Any], sample: Sample) -> None:
    assert convert(row, mapping) == sample


def test_text_is_trained_whatever_the_text_field_is_called() -> None:
    assert convert({"a": "Once"}, {"text": "a"}, "story") == Text("Once")


def test_columns_that_are_read() -> None:
    mapping = {"prompt": "{b} {a} {b}", "completion": "c", "tools": "t"}
    assert Converter(ConvertSettings(mapping=mapping)).columns == ("b", "a", "c", "t")
    assert Converter(ConvertSettings()).columns is None


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        (
            {"promt": "q", "completion": "a"},
            "dataset_mapping has the unknown key 'promt'\n  where: dataset_mapping\n  fix:   write prompt",
        ),
        (
            {"label": "q"},
            "dataset_mapping has the unknown key 'label'\n  where: dataset_mapping\n"
            "  fix:   use text, prompt, completion, user, assistant, messages, system, tools, chat_template_kwargs",
        ),
        (
            {"text": "t", "prompt": "q", "completion": "a"},
            "dataset_mapping has text and prompt: a row becomes one thing\n  where: dataset_mapping\n"
            "  fix:   keep one of: text; prompt and completion; user and assistant; messages",
        ),
        (
            {"system": "s"},
            "dataset_mapping says nothing of what a row becomes\n  where: dataset_mapping\n"
            "  fix:   keep one of: text; prompt and completion; user and assistant; messages",
        ),
        (
            {"assistant": "a"},
            "dataset_mapping has assistant without user\n  where: dataset_mapping\n  fix:   add user",
        ),
        (
            {"prompt": "q", "completion": "a", "system": "s"},
            "dataset_mapping has system beside prompt and completion, which is plain text\n"
            "  where: dataset_mapping\n  fix:   write user and assistant to make chats of the rows",
        ),
        (
            {"text": "t", "tools": "x"},
            "dataset_mapping has tools beside text, which no chat template renders\n"
            "  where: dataset_mapping\n  fix:   remove tools",
        ),
        (
            {"messages": "{chat}"},
            "messages of dataset_mapping is a template\n  where: dataset_mapping\n  fix:   write a column's name",
        ),
        (
            {"text": "{a} {} {b", "tools": 3},
            "dataset_mapping has tools beside text, which no chat template renders\n"
            "  where: dataset_mapping\n  fix:   remove tools\n"
            "text of dataset_mapping has a brace that names no column: {}\n"
            "  where: dataset_mapping\n  fix:   write {column}, or {{ and }} for braces\n"
            "tools of dataset_mapping is a number\n"
            "  where: dataset_mapping\n  fix:   write a column's name, or a template with {column}",
        ),
        (
            {"text": ""},
            "text of dataset_mapping is empty\n  where: dataset_mapping\n"
            "  fix:   write a column's name, or a template with {column}",
        ),
        (
            {},
            "dataset_mapping says nothing of what a row becomes\n  where: dataset_mapping\n"
            "  fix:   keep one of: text; prompt and completion; user and assistant; messages",
        ),
        (
            "mine.py",
            "'mine.py' names nothing\n  where: dataset_mapping\n  fix:   write file.py:name or module:name",
        ),
        (
            "math:pi",
            "math:pi is no function\n  where: dataset_mapping\n  fix:   name a function that takes a row",
        ),
    ],
)
def test_mapping_that_makes_no_sense_is_refused_before_any_row(mapping: Any, text: str) -> None:
    with pytest.raises(UserError) as caught:
        Converter(ConvertSettings(mapping=mapping))
    assert str(caught.value) == text


def test_mapping_and_formatting_function_together() -> None:
    with pytest.raises(UserError) as caught:
        Converter(ConvertSettings(mapping={"text": "a"}, formatting_func="mine.py:to_text"))
    assert str(caught.value) == (
        "dataset_mapping and formatting_func both say what a row becomes\n  where: dataset_mapping\n"
        "  fix:   keep one; a function in dataset_mapping may return text, too"
    )


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(
        "def to_row(row):\n"
        "    if row['kind'] == 'chat':\n"
        "        return {'messages': [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]}\n"
        "    if row['kind'] == 'text':\n"
        "        return 'Once'\n"
        "    return None if row['kind'] == 'none' else helper(row)\n\n\n"
        "def helper(row):\n"
        "    return row['answer']\n"
    )
    return path


def test_function_returns_a_row_of_any_shape_or_text(mine: Path) -> None:
    convert_row = Converter(ConvertSettings(mapping="mine.py:to_row")).convert
    assert convert_row({"kind": "chat"})[1] == Chat([USER, ANSWER])
    assert convert_row({"kind": "text"})[1] == Text("Once")


def test_function_drops_a_row(mine: Path) -> None:
    with pytest.raises(BadRow) as caught:
        convert({"kind": "none"}, "mine.py:to_row")
    assert (caught.value.what, caught.value.fix) == (
        "mine.py:to_row returns None for it",
        "return a row from mine.py:to_row to keep it",
    )
    assert (caught.value.reason, caught.value.malformed) == ("dropped by mine.py:to_row", False)


def test_function_that_fails_is_told_with_its_line(mine: Path) -> None:
    with pytest.raises(UserError) as caught:
        convert({"kind": "odd"}, "mine.py:to_row")
    assert str(caught.value) == (
        "mine.py:to_row fails on a row with kind: KeyError: 'answer'\n  where: mine.py:10\n  fix:   mend the function"
    )


def test_formatting_function(mine: Path) -> None:
    def settings(name: str) -> ConvertSettings:
        return ConvertSettings(text_field="story", formatting_func=f"mine.py:{name}")

    assert Converter(settings("to_row")).convert({"kind": "text"})[1] == Text("Once")
    with pytest.raises(BadRow) as dropped:
        Converter(settings("helper")).convert({"answer": " "})
    assert dropped.value.what == "story is empty"
    with pytest.raises(UserError) as caught:
        Converter(settings("to_row")).convert({"kind": "chat"})
    assert str(caught.value) == (
        "mine.py:to_row returns dict, not text\n  where: formatting_func\n"
        "  fix:   return the text of the one row that it is given"
    )
