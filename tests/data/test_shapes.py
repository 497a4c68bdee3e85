"""Which shape a row has, and which one counts where it has two."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from sft.data.sample import BadRow
from sft.data.shapes import Shape, recognise

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]

IN_ORDER: list[tuple[Shape, dict[str, Any]]] = [
    (Shape.TOKENS, {"input_ids": [1]}),
    (Shape.PROMPT_COMPLETION, {"prompt": "Hi", "completion": "Hello"}),
    (Shape.MESSAGES, {"messages": CHAT}),
    (Shape.SHAREGPT, {"conversations": TURNS}),
    (Shape.TEXT, {"text": "Hi"}),
    (Shape.ALPACA, {"instruction": "Say hi", "output": "Hello"}),
]


@pytest.mark.parametrize(("shape", "row"), IN_ORDER, ids=lambda value: str(value)[:20])
def test_shape_is_recognised_beside_columns_that_mean_nothing(shape: Shape, row: dict[str, Any]) -> None:
    assert recognise({"id": 3, **row, "source": "web"}, "text") is shape


@pytest.mark.parametrize(("first", "second"), list(combinations(IN_ORDER, 2)), ids=lambda pair: pair[0].value)
def test_row_of_two_shapes_is_the_earlier_of_the_order(
    first: tuple[Shape, dict[str, Any]], second: tuple[Shape, dict[str, Any]]
) -> None:
    assert recognise({**second[1], **first[1]}, "text") is first[0]


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"prompt": "Hi", "messages": CHAT}, Shape.MESSAGES),
        ({"prompt": "Hi", "completion": None, "messages": CHAT}, Shape.MESSAGES),
        ({"messages": None, "text": "Hi"}, Shape.TEXT),
        ({"messages": None, "text": None}, Shape.MESSAGES),
        ({"input_ids": None, "instruction": "a", "output": "b"}, Shape.ALPACA),
        ({"messages": TURNS}, Shape.SHAREGPT),
        ({"conversation": TURNS}, Shape.SHAREGPT),
        ({"conversations": CHAT}, Shape.MESSAGES),
        ({"messages": []}, Shape.MESSAGES),
        ({"messages": [{"role": "user", "from": "web", "content": "Hi"}]}, Shape.MESSAGES),
        ({"instruction": "a", "output": None}, Shape.ALPACA),
        ({"text": ""}, Shape.TEXT),
    ],
    ids=[
        "prompt without completion decides nothing",
        "nor with a null one",
        "null gives way",
        "null where all is null",
        "null ids give way",
        "from and value in messages",
        "conversation",
        "role and content in conversations",
        "no messages",
        "from beside role",
        "null answer",
        "empty text",
    ],
)
def test_rule(row: dict[str, Any], shape: Shape) -> None:
    assert recognise(row, "text") is shape


def test_text_field_has_another_name() -> None:
    assert recognise({"story": "Once", "instruction": "a", "output": "b"}, "story") is Shape.TEXT
    assert recognise({"text": "Once", "instruction": "a", "output": "b"}, "story") is Shape.ALPACA


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        (
            {"mesages": CHAT},
            "rename the column mesages to messages, or set dataset_mapping: {messages: mesages}",
        ),
        (
            {"convarsations": TURNS},
            "rename the column convarsations to conversations, or set dataset_mapping: {messages: convarsations}",
        ),
        ({"Text": "Once"}, "rename the column Text to text, or set dataset_text_field: Text"),
        (
            {"inputids": [1]},
            "rename the column inputids to input_ids, or convert the rows with dataset_mapping: file.py:function",
        ),
        (
            {"instruction": "a", "outputs": "b"},
            "rename the column outputs to output, or set dataset_mapping: {instruction: instruction, output: outputs}",
        ),
        ({"prompt": "a", "response": "b"}, "set dataset_mapping: {user: prompt, assistant: response}"),
        (
            {"prompt": "a"},
            "add the column completion, or set dataset_text_field: prompt to train on all of it",
        ),
        (
            {"html": "<p>"},
            "set dataset_mapping, or dataset_text_field where a column is plain text to train on",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_row_of_no_shape_is_refused_with_what_was_meant(row: dict[str, Any], fix: str) -> None:
    with pytest.raises(BadRow) as caught:
        recognise(row, "text")
    assert caught.value.fix == fix
    assert caught.value.what == (
        f"the columns {', '.join(row)} fit no known shape"
        " (messages; prompt and completion; conversations; text; instruction and output; input_ids)"
    )
    assert (caught.value.reason, caught.value.malformed) == ("unknown shape", True)
