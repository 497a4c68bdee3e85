"""What a row of each shape becomes."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data.convert import Converter, ConvertSettings
from sft.data.sample import BadRow, Chat, PromptCompletion, Sample, Text, Tokens
from sft.data.shapes import Shape

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
CALLS = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def convert(row: dict[str, Any]) -> Sample:
    return Converter(ConvertSettings()).convert(row)[1]


def chat(row: dict[str, Any]) -> Chat:
    sample = convert(row)
    assert isinstance(sample, Chat)
    return sample


def refusal(row: dict[str, Any]) -> str:
    with pytest.raises(BadRow) as caught:
        convert(row)
    return caught.value.what


def test_messages_are_handed_on_as_they_are() -> None:
    messages = [{"role": "system", "content": "Be kind"}, USER, ANSWER]
    assert chat({"messages": messages, "system": "not read: TRL does not either"}) == Chat(messages)


def test_what_templates_read_beside_role_and_content_stays() -> None:
    messages = [
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": CALLS, "reasoning_content": "hm", "id": 7},
        {"role": "tool", "content": "22", "tool_call_id": "a"},
        {"role": "assistant", "content": "22", "thinking": "so"},
        {"role": "assistant", "content": "22", "reasoning": "so"},
    ]
    assert chat({"messages": messages}).messages == messages


def test_null_keys_are_dropped_and_the_row_is_not_altered() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "Hi", "tool_calls": None},
            {"role": "assistant", "content": None, "tool_calls": CALLS, "train": None},
            {"role": "assistant", "content": "Hello", "weight": 1},
        ]
    }
    before = copy.deepcopy(row)
    sample = chat(row)
    assert sample.messages == [USER, {"role": "assistant", "tool_calls": CALLS}, ANSWER]
    assert sample.trained == (None, None, True)
    assert row == before


def test_typed_parts_become_text_and_reasoning() -> None:
    parts = [
        {"type": "thinking", "thinking": "hm, ", "text": None},
        {"type": "reasoning", "text": "so"},
        {"type": "text", "text": "Hel", "image": None},
        "l",
        {"text": "o"},
    ]
    sample = chat({"messages": [USER, {"role": "assistant", "content": parts}]})
    assert sample.messages == [USER, {**ANSWER, "reasoning_content": "hm, so"}]


def test_arguments_stay_as_the_row_has_them() -> None:
    calls = [
        {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"name": "g", "arguments": {"a": None}},
        {"name": "h"},
    ]
    for given_calls in (calls, json.dumps(calls)):
        sample = chat({"messages": [USER, {"role": "assistant", "tool_calls": given_calls}]})
        assert sample.messages[1] == {"role": "assistant", "tool_calls": calls}


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ([TOOL], [TOOL]),
        (json.dumps([TOOL]), [TOOL]),
        ([{"name": "bare"}], [{"name": "bare"}]),
        ([], None),
        ("[]", None),
        ("null", None),
        ("", None),
        (None, None),
    ],
)
def test_tools(tools: Any, expected: Any) -> None:
    for row in ({"messages": [USER, ANSWER]}, {"prompt": [USER], "completion": [ANSWER]}):
        assert chat({**row, "tools": tools}).tools == expected


def test_variables_of_the_template() -> None:
    row = {"messages": [USER, ANSWER], "chat_template_kwargs": {"enable_thinking": False}}
    assert chat(row).template_kwargs == {"enable_thinking": False}
    assert chat({**row, "chat_template_kwargs": None}).template_kwargs == {}


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ([{}, {}, {}, {}], ()),
        ([{}, {"train": False}, {}, {}], (None, False, None, None)),
        ([{"train": False}, {"train": False}, {"weight": 0}, {"train": True}], (False, False, False, True)),
        ([{}, {"weight": 0.0}, {}, {"loss_weight": 1.0}], (None, False, None, True)),
        ([{}, {"train": 1, "weight": 1}, {}, {"train": None}], (None, True, None, None)),
    ],
)
def test_flags_are_taken_out_of_the_messages(
    flags: list[dict[str, Any]], trained: tuple[bool | None, ...]
) -> None:
    plain = [USER, ANSWER, USER, ANSWER]
    sample = chat({"messages": [{**message, **flag} for message, flag in zip(plain, flags, strict=True)]})
    assert (sample.messages, sample.trained) == (plain, trained)


def test_empty_answer_is_allowed_where_it_says_that_it_is_not_trained() -> None:
    empty = {"role": "assistant", "content": ""}
    assert chat({"messages": [USER, {**empty, "train": False}, USER, ANSWER]}).messages[1] == empty
    assert refusal({"messages": [USER, empty, USER, ANSWER]}) == "the answer of message 2 is empty"


@pytest.mark.parametrize(
    "messages",
    [
        [ANSWER, USER],
        [USER, USER, ANSWER, ANSWER],
        [USER, {"role": "system", "content": "a"}, {"role": "system", "content": "b"}, ANSWER],
        [{"role": "developer", "content": "a"}, USER, ANSWER],
        [{"role": "user", "content": ""}, ANSWER],
        [USER, {"role": "assistant", "tool_calls": CALLS}, {"role": "ipython", "content": ""}, ANSWER],
        [USER, ANSWER, {"role": "tool", "content": "22"}],
    ],
    ids=["assistant first", "twice", "systems", "developer", "empty user", "ipython", "a tool last"],
)
def test_order_is_for_the_template_to_judge(messages: list[dict[str, Any]]) -> None:
    assert chat({"messages": messages}).messages == messages


def test_prompt_and_completion_of_text() -> None:
    assert convert({"prompt": "", "completion": " Hello"}) == PromptCompletion("", " Hello")
    assert refusal({"prompt": "Hi", "completion": " \n"}) == "completion is empty"
    assert refusal({"prompt": None, "completion": "Hello"}) == "prompt is null"


def test_prompt_and_completion_of_messages() -> None:
    row = {"prompt": [USER, ANSWER, USER], "completion": [{**ANSWER, "train": True}]}
    assert convert(row) == Chat([USER, ANSWER, USER, ANSWER], None, 3, (None, None, None, True))
    assert convert({"prompt": [], "completion": [ANSWER]}) == Chat([ANSWER], None, 0)
    assert refusal({"prompt": [USER, ANSWER], "completion": []}) == "completion is an empty list"
    assert refusal({"prompt": [USER, {"role": "bot"}], "completion": [ANSWER]}) == (
        "message 2 of prompt has the unknown role 'bot'"
    )
    assert refusal({"prompt": [USER], "completion": [ANSWER, {"role": "assistant", "content": ""}]}) == (
        "the answer of message 2 of completion is empty"
    )


def test_text() -> None:
    assert convert({"text": " Once\n"}) == Text(" Once\n")
    assert refusal({"text": " \n"}) == "text is empty"
    shape, sample = Converter(ConvertSettings(text_field="story")).convert({"story": "Once", "text": "no"})
    assert (shape, sample) == (Shape.TEXT, Text("Once"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "Add", "input": "1 1"}, ["Add\n1 1"]),
        ({"instruction": "Add", "input": ""}, ["Add"]),
        ({"instruction": "Add", "input": None, "system": None, "history": None}, ["Add"]),
        ({"instruction": "", "input": "1 1"}, ["1 1"]),
        ({"instruction": "Add"}, ["Add"]),
        (
            {"instruction": "Add", "system": "Be kind", "history": [["Hi", "Hello"]]},
            ["Be kind", "Hi", "Hello", "Add"],
        ),
    ],
)
def test_alpaca(row: dict[str, Any], said: list[str]) -> None:
    roles = ["system", "user", "assistant", "user"] if "history" in row and len(said) > 1 else ["user"]
    prompt = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    answer = {"role": "assistant", "content": "2"}
    assert convert({**row, "output": "2"}) == Chat([*prompt, answer], None, len(prompt))


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        ({}, [5, 6, 7]),
        ({"labels": None, "attention_mask": [1, 1, 1]}, [5, 6, 7]),
        ({"labels": [-100, 6, 7]}, [-100, 6, 7]),
        ({"completion_mask": [0, 1, 1]}, [-100, 6, 7]),
        ({"assistant_masks": [False, True, True]}, [-100, 6, 7]),
        ({"loss_mask": [0, 0, 1], "completion_mask": [0, 1, 1]}, [-100, -100, 7]),
        ({"labels": [-100, -100, 7], "loss_mask": [1, 1, 1]}, [-100, -100, 7]),
    ],
)
def test_tokens(columns: dict[str, Any], labels: list[int]) -> None:
    assert convert({"input_ids": [5, 6, 7], **columns}) == Tokens([5, 6, 7], labels)


def test_settings_pickle() -> None:
    settings = ConvertSettings("story", {"text": "{a}"}, None)
    assert pickle.loads(pickle.dumps(settings)) == settings


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["", " ", "a", "[", "[]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=4,
)
ROLE = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "function_call"]) | JSON
PARTS = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["text", "thinking", "image"]) | JSON, "text": JSON, "image": JSON}
)
CALL = st.fixed_dictionaries(
    {},
    optional={
        "name": JSON,
        "arguments": JSON,
        "function": JSON | st.fixed_dictionaries({"name": JSON, "arguments": JSON}),
    },
)
CONTENT = st.text() | JSON | st.lists(PARTS | JSON, max_size=3)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": ROLE,
        "from": ROLE,
        "content": CONTENT,
        "value": CONTENT | CALL.map(json.dumps),
        "tool_calls": JSON | st.lists(CALL | JSON, max_size=2),
        "train": JSON,
        "weight": JSON,
        "reasoning": JSON,
    },
)
MESSAGES = JSON | st.lists(MESSAGE | JSON, max_size=4)
COLUMNS = {
    "messages": MESSAGES,
    "conversations": MESSAGES,
    "prompt": MESSAGES,
    "completion": MESSAGES,
    "tools": JSON,
    "chat_template_kwargs": JSON,
    "system": JSON,
    "images": JSON,
    "text": JSON,
    "instruction": JSON,
    "input": JSON,
    "output": JSON,
    "history": JSON,
    "input_ids": JSON,
    "labels": JSON,
    "loss_mask": JSON,
    "attention_mask": JSON,
}


@given(
    st.sets(st.sampled_from(sorted(COLUMNS)), max_size=4).flatmap(
        lambda names: st.fixed_dictionaries({name: COLUMNS[name] for name in names})
    )
)
def test_any_row_is_converted_or_refused_and_never_altered(row: dict[str, Any]) -> None:
    before = copy.deepcopy(row)
    sample: Sample | None
    try:
        shape, sample = Converter(ConvertSettings()).convert(row)
    except BadRow:
        sample = None
    else:
        assert isinstance(shape, Shape)
    if isinstance(sample, Chat):
        assert any(message["role"] == "assistant" for message in sample.messages)
        assert all(isinstance(message.get("content", ""), str) for message in sample.messages)
        assert len(sample.trained) in (0, len(sample.messages))
    assert repr(row) == repr(before)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()},
            optional={"name": st.none() | st.text(), "reasoning_content": st.none() | st.text()},
        )
    )
)
def test_messages_are_those_that_transformers_would_render(messages: list[dict[str, Any]]) -> None:
    seen = [{key: value for key, value in message.items() if value is not None} for message in messages]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers or any(not answer.strip() for answer in answers):
        with pytest.raises(BadRow):
            convert({"messages": messages})
    else:
        assert chat({"messages": messages}).messages == seen
