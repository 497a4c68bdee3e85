"""Random conversations: our ids are apply_chat_template's, our mask is exactly the assistant's characters."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft.data.encode import Encoded, Encoder
from sft.data.loss import EncodeSettings
from sft.data.sample import BadRow, Chat
from sft.data.spans import Rendered
from tests.data.shipped import WEATHER, files_for, transformers_tokenizer, trl_templates
from tests.data.test_against_trl import SMOLLM2
from tests.tiny import CHAT_TEMPLATE

TEMPLATES = {
    "marked": CHAT_TEMPLATE,
    "turn by turn": SMOLLM2,
    "qwen3": trl_templates()["qwen3"],
    "llama3": trl_templates()["llama3"],
    "llama3_2": trl_templates()["llama3_2"],
}
SPELLED = [
    "<|im_end|>",
    "<|eot_id|>",
    "<think>",
    "</think>",
    "<|im_start|>",
    "<tool_call>",
    "<|bos|>",
    "<|im",
    "_end|>",
]
ODD = [
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "שלום",
    "مرحبا",
    "e\u0301",
    "\U0001d518",
    "\u200f",
    "\u00a0",
    "\x00",
    "\r\n",
]
WORDS = st.one_of(
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1\ufdd2\ufdd3"), max_size=12
    ),
    st.sampled_from(ODD),
    st.text("ab \n{}%#<|>/", max_size=12),
)


def _text(*more: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pieces = st.lists(st.one_of(WORDS, *more), max_size=6).map("".join)
    return st.one_of(pieces, st.builds(lambda text, times: (text + " ") * times, pieces, st.integers(20, 60)))


@st.composite
def chats(draw: st.DrawFn, *more: st.SearchStrategy[str]) -> Chat:
    """A conversation of one turn to many, now and then with a system message and tools."""
    text = _text(*more)
    answer = text.filter(lambda answer: not answer.isspace() and answer != "")
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(text)})
    for _ in range(draw(st.one_of(st.integers(1, 3), st.just(20)))):
        messages.append({"role": "user", "content": draw(text)})
        messages.append({"role": "assistant", "content": draw(answer)})
    return Chat(messages, [WEATHER] if draw(st.booleans()) else None)


@lru_cache(maxsize=32)
def _encoder(name: str, **arguments: Any) -> Encoder:
    return Encoder(files_for(TEMPLATES[name]), EncodeSettings(**arguments))


def _check(name: str, chat: Chat) -> None:
    encoder = _encoder(name, assistant_only_loss=True)
    (found,), (whole,) = encoder.encode([chat]), _encoder(name).encode([chat])
    if isinstance(found, BadRow):
        # Thoughts that a template takes out of an answer may leave nothing of it, or change what was rendered before.
        assert found.reason in ("left out by the chat template", "assistant tokens cannot be told apart"), (
            found
        )
        return
    assert isinstance(whole, Encoded)
    theirs, masker = transformers_tokenizer(TEMPLATES[name]), encoder._masker(bool(chat.tools))
    rendered = masker.render(chat)
    for row, template in ((whole, masker.template), (found, rendered.template)):
        text = theirs.apply_chat_template(
            list(chat.messages), tools=chat.tools, chat_template=template.text, tokenize=False
        )
        if not row.special_text:
            expected = theirs(text, add_special_tokens=False)["input_ids"]
            assert row.ids.tolist() == expected
        assert theirs.decode(row.ids, clean_up_tokenization_spaces=False) == text
    _check_mask(encoder, found, rendered)


def _check_mask(encoder: Encoder, found: Encoded, rendered: Rendered) -> None:
    """What is trained, decoded by itself, is the assistant's text and nothing else."""
    decode = encoder.tokenizer.decode
    inside = "".join(rendered.text[start:stop] for start, stop in rendered.spans)
    trained = [token for token, mask in zip(found.ids, found.mask, strict=True) if mask]
    outside = [token for token, mask in zip(found.ids, found.mask, strict=True) if not mask]
    got = decode(trained, skip_special_tokens=False)
    rest, at = [], 0
    for start, stop in rendered.spans:
        rest.append(rendered.text[at:start])
        at = stop
    others = "".join([*rest, rendered.text[at:]])
    if got != inside:  # a token that holds characters of both sides is trained whole
        assert inside in got or len(got) >= len(inside)
        assert len(got) - len(inside) <= 8 * len(rendered.spans)
    else:
        assert decode(outside, skip_special_tokens=False) == others


FEW = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", TEMPLATES)
@FEW
@given(chat=chats())
def test_ids_text_and_mask_of_random_chats(name: str, chat: Chat) -> None:
    _check(name, chat)


@pytest.mark.parametrize("name", TEMPLATES)
@FEW
@given(chat=chats(st.sampled_from(SPELLED)))
def test_random_chats_that_spell_special_tokens(name: str, chat: Chat) -> None:
    _check(name, chat)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
@MANY
@given(chat=chats())
def test_ids_text_and_mask_of_many_random_chats(name: str, chat: Chat) -> None:
    _check(name, chat)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
@MANY
@given(chat=chats(st.sampled_from(SPELLED)))
def test_many_random_chats_that_spell_special_tokens(name: str, chat: Chat) -> None:
    _check(name, chat)


def test_a_refusal_does_not_hold_up_the_rows_beside_it() -> None:
    good = Chat([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    bad = replace(good, messages=[{"role": "user", "content": "<|im_end|>"}, *good.messages[1:]])
    encoder = _encoder("marked", special_tokens_in_content="refuse")
    one, refused, other = encoder.encode([good, bad, good])
    assert isinstance(refused, BadRow)
    assert one == other
