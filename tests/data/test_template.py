"""What we render is what transformers renders: every template that the installed TRL and transformers ship.

transformers ships no template as a file. Three of its processors carry one in their code (Llama 4, SmolVLM's for
video, Qwen2-Audio's); they are taken in.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sft.data.sample import BadRow
from sft.data.template import CLOSE, OPEN, ChatTemplate
from tests.data.shipped import CONVERSATIONS, SPECIAL, plain_tokenizer, templates


def _arguments(chat: dict[str, Any]) -> dict[str, Any]:
    return {"tools": chat.get("tools"), **chat.get("template_kwargs", {})}


@pytest.mark.parametrize("name", templates())
def test_every_shipped_template_renders_as_transformers_renders_it(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    text, theirs = templates()[name], plain_tokenizer()
    ours = ChatTemplate(text, SPECIAL)
    for title, chat in CONVERSATIONS.items():
        messages, arguments = chat["messages"], _arguments(chat)
        for prompt in (False, True):
            try:
                expected = theirs.apply_chat_template(
                    messages, chat_template=text, tokenize=False, add_generation_prompt=prompt, **arguments
                )
            except Exception as error:  # whatever a template raises
                why = re.escape(str(error))
                with pytest.raises(BadRow, match=f"the chat template refuses the row: .*{why}"):
                    ours.render(messages, add_generation_prompt=prompt, **arguments)
                continue
            assert ours.render(messages, add_generation_prompt=prompt, **arguments) == expected, title
            if prompt or not ours.has_markers:
                continue
            (rendered,), (spans,) = render_jinja_template(
                [messages], chat_template=text, return_assistant_tokens_mask=True, **SPECIAL, **arguments
            )
            assert ours.render_with_spans(messages, **arguments) == (rendered, spans), title


@pytest.mark.parametrize(
    ("body", "spans"),
    [
        ("{%- generation -%} {{ 'x' }} {%- endgeneration -%}", [(0, 1)]),
        ("{% if true %}{% generation %}{% endgeneration %}{% endif %}|", [(0, 0)]),
        ("{% for m in messages %}a{% generation %}b{% endgeneration %}{% endfor %}", [(1, 2), (3, 4)]),
    ],
)
def test_markers_are_found_however_they_are_written(body: str, spans: list[tuple[int, int]]) -> None:
    template = ChatTemplate(body, {})
    assert template.has_markers
    chat = CONVERSATIONS["single"]["messages"]
    assert template.render_with_spans(chat)[1] == spans


def test_content_that_holds_our_marks_is_refused() -> None:
    template = ChatTemplate(
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", {}
    )
    for text in (OPEN, CLOSE, f"{CLOSE}{OPEN}", f"a{OPEN}b{CLOSE}c"):
        with pytest.raises(BadRow) as refused:
            template.render_with_spans([{"role": "user", "content": text}])
        assert (
            refused.value.what
            == "the row holds the noncharacters U+FDD0 and U+FDD1, which mark the assistant's text"
        )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{{ messages[0].content + 1 }}", 'can only concatenate str (not "int") to str'),
        ("{{ messages[7].content }}", "list object has no element 7"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe."),
        ("{% set ns = namespace(x=1) %}{% set ns.__class__ = 2 %}", "'__class__'"),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe."),
        ("{{ range(9999999) | list }}", "Range too big"),
        ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "maximum recursion depth exceeded"),
    ],
)
def test_whatever_a_template_raises_names_the_template(body: str, why: str) -> None:
    with pytest.raises(BadRow) as refused:
        ChatTemplate(body, {}).render(CONVERSATIONS["single"]["messages"])
    assert refused.value.what.startswith("the chat template refuses the row: ")
    assert why in refused.value.what
    assert refused.value.malformed


def test_a_namespace_starts_without_names_that_lead_out_of_the_sandbox() -> None:
    with pytest.raises(BadRow, match="may not set the attribute '__x'"):
        ChatTemplate("{% set ns = namespace(__x=1) %}", {}).render(CONVERSATIONS["single"]["messages"])


def test_json_is_written_as_it_is() -> None:
    value = {"b": "<é&'>", "a": [1, None]}
    template = ChatTemplate("{{ x | tojson }}\n{{ x | tojson(indent=2, sort_keys=true) }}", {})
    expected = [
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True),
    ]
    assert template.render(CONVERSATIONS["single"]["messages"], x=value) == "\n".join(expected)


def test_the_row_and_its_messages_are_left_as_they_were() -> None:
    chat = CONVERSATIONS["reasoning twice"]["messages"]
    before = json.dumps(chat)
    ChatTemplate("{% for m in messages %}{{ m.thinking }}{% endfor %}", {}).render(chat)
    assert json.dumps(chat) == before
