"""Which characters and tokens are the assistant's, over every shipped template and every kind of conversation."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from sft.data.encode import Encoded, Encoder
from sft.data.loss import EncodeSettings
from sft.data.sample import BadRow, Chat
from sft.data.spans import MARKERS, PREFIXES, TRAINING, Masker, training_template
from sft.data.template import ChatTemplate
from tests.data.shipped import CONVERSATIONS, files_for, templates, transformers_tokenizer, trl_templates

ALPACA = (
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n"
    "{% elif m.role == 'assistant' %}### Response:\n{{ m.content }}</s>\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
IN_USE = {
    "llama-2": (
        "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for m in messages %}"
        "{% if m.role == 'user' %}{{ '<s>[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' </s>' }}{% endif %}{% endfor %}"
    ),
    "mistral": (
        "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}{{ raise_exception('only user and assistant') }}"
        "{% endif %}{% endfor %}"
    ),
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "alpaca": ALPACA,
}
"""Templates as models in use have them, without markers and unknown to TRL."""

DIFFERING = {
    "cohere2": {"developer"},
    "deepseek_r1_distill": {"reasoning in content"},
    "deepseekv3": {"tools with text for arguments"},
    "qwen3": {
        "turns", "system and turns", "unicode", "reasoning twice", "reasoning in content", "tools",
        "tools without content", "tools with text for arguments", "tools unused", "user last", "assistant first",
    },
    **{
        name: {
            "turns", "system and turns", "unicode", "reasoning twice", "reasoning in content", "tools unused",
            "user last", "assistant first",
        }
        for name in ("qwen3_5_nothink", "qwen3_5_think", "qwen3_6")
    },
}  # fmt: skip
"""Where TRL's training template renders otherwise than the model's own: Qwen's keeps the thinking of earlier turns,
Cohere's and DeepSeek's keep what their own would lose. GLM-4's, apart from these, always ends the last turn, which its
own leaves open."""


@lru_cache(maxsize=256)
def _encoder(text: str, **settings: Any) -> Encoder:
    encoder = Encoder(files_for(text), EncodeSettings(**settings))
    if settings:  # the compiled templates are the same, and take long
        others = _encoder(text)
        encoder._maskers, encoder._special = others._maskers, others._special
    return encoder


def _chat(title: str) -> Chat:
    found = CONVERSATIONS[title]
    return Chat(found["messages"], found.get("tools"), template_kwargs=found.get("template_kwargs", {}))


@lru_cache(maxsize=256)
def _masker(text: str) -> Masker:
    added = files_for(text).build().get_added_tokens_decoder().values()
    return Masker(ChatTemplate(text, files_for(text).special), [token.content for token in added])


def _expected(chat: Chat, text: str, template: str) -> tuple[list[int], list[int]]:
    """What transformers gives, with a template that has markers."""
    found = transformers_tokenizer(text).apply_chat_template(
        list(chat.messages),
        tools=chat.tools,
        chat_template=template,
        return_dict=True,
        return_assistant_tokens_mask=True,
        **chat.template_kwargs,
    )
    return found["input_ids"], found["assistant_masks"]


@pytest.mark.parametrize("name", templates())
def test_ids_and_masks_are_those_of_transformers(name: str) -> None:
    text = templates()[name]
    encoder = _encoder(text, assistant_only_loss=True)
    for title in CONVERSATIONS:
        chat = _chat(title)
        (found,) = encoder.encode([chat])
        (whole,) = _encoder(text).encode([chat])
        if isinstance(whole, BadRow):
            assert whole.reason in ("refused by the chat template", "left out by the chat template")
            continue
        assert (
            whole.ids.tolist()
            == transformers_tokenizer(text).apply_chat_template(
                list(chat.messages), tools=chat.tools, **chat.template_kwargs
            )["input_ids"]
        ), title
        if isinstance(found, BadRow):
            continue
        template = encoder._masker(False).training or encoder._masker(False).template
        if not template.has_markers:
            continue
        ids, mask = _expected(chat, text, template.text)
        assert found.ids.tolist() == ids, title
        assert list(found.mask) == _with_last_bytes(ids, mask, text), title


def _with_last_bytes(ids: list[int], mask: list[int], text: str) -> list[int]:
    """Mend transformers' mask: of a last character whose bytes are several tokens it marks the first only.

    It looks up the token of the last character, and where several hold it takes the first of them.
    """
    tokenizer = files_for(text).build()
    mended = list(mask)
    for index in range(1, len(ids)):
        if mended[index - 1] and not mended[index]:
            # Bytes 0x80 to 0xBF continue a character; their symbols in this vocabulary begin at "Ģ".
            token = tokenizer.id_to_token(ids[index]) or ""
            mended[index] = int(token != "" and all(_continues(symbol) for symbol in token))
    return mended


def _continues(symbol: str) -> bool:
    return symbol in CONTINUING


def _byte_symbols() -> set[str]:
    """The symbols by which a byte-level vocabulary writes the bytes 0x80 to 0xBF."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    symbols = {
        **{byte: chr(byte) for byte in plain},
        **{byte: chr(256 + at) for at, byte in enumerate(others)},
    }
    return {symbols[byte] for byte in range(0x80, 0xC0)}


CONTINUING = _byte_symbols()


@pytest.mark.parametrize("name", templates())
def test_every_turn_of_the_assistant_ends_with_a_token_that_carries_loss(name: str) -> None:
    text = templates()[name]
    encoder = _encoder(text, assistant_only_loss=True)
    added = {token.content for token in encoder.tokenizer.get_added_tokens_decoder().values()}
    for title in CONVERSATIONS:
        try:
            rendered = encoder._masker(False).render(_chat(title))
        except BadRow:
            continue
        turns = [message for message in CONVERSATIONS[title]["messages"] if message["role"] == "assistant"]
        assert len(rendered.spans) == len(turns), title
        for start, stop in rendered.spans:
            assert rendered.text[start:stop].rstrip().endswith(tuple(added)), (
                title,
                rendered.text[start:stop],
            )
        (found,) = encoder.encode([_chat(title)])
        assert isinstance(found, Encoded)
        ends = [
            encoder.tokenizer.token_to_id(_last(rendered.text[start:stop], added))
            for start, stop in rendered.spans
        ]
        trained = [token for token, mask in zip(found.ids, found.mask, strict=True) if mask]
        assert all(trained.count(end) >= ends.count(end) for end in ends), title


def _last(text: str, added: set[str]) -> str:
    return max((token for token in added if text.rstrip().endswith(token)), key=len)


@pytest.mark.parametrize("name", [name for name in trl_templates() if not name.endswith("_training")])
def test_the_training_template_is_the_one_that_trl_gives(name: str) -> None:
    from trl import get_training_chat_template

    text = trl_templates()[name]
    if ChatTemplate(text, {}).has_markers:
        return
    try:
        expected = get_training_chat_template(transformers_tokenizer(text))
    except ValueError:
        expected = None
    assert training_template(text) == expected
    how = TRAINING if expected else PREFIXES
    try:
        assert _masker(text).render(_chat("single")).how == how
    except BadRow:
        assert name in ("llava_next", "idefics3", "smolvlm")  # these want the content as parts


@pytest.mark.parametrize("name", [name for name, text in trl_templates().items() if training_template(text)])
def test_where_a_training_template_renders_otherwise_is_known_and_counted(name: str) -> None:
    differing = set()
    for title in CONVERSATIONS:
        (found,) = _encoder(trl_templates()[name], assistant_only_loss=True).encode([_chat(title)])
        if isinstance(found, Encoded) and found.differs:
            differing.add(title)
    if name == "glm4moe":
        assert differing == set(CONVERSATIONS) - {
            "user last",
            "assistant first",
            "tools with text for arguments",
        }
    else:
        assert differing == DIFFERING.get(name, set())


def _marked_turns(name: str, title: str) -> list[str]:
    rendered = _masker({**IN_USE, **templates()}[name]).render(_chat(title))
    assert rendered.how == PREFIXES
    return [rendered.text[start:stop] for start, stop in rendered.spans]


WITHOUT = ["llama3_1", "llama3_2", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", *IN_USE]
"""Templates without markers and without a training template."""


@pytest.mark.parametrize("name", WITHOUT)
def test_without_markers_the_turns_are_found_by_rendering_turn_by_turn(name: str) -> None:
    text = {**IN_USE, **templates()}[name]
    for title, chat in CONVERSATIONS.items():
        try:
            rendered = _masker(text).render(_chat(title))
        except BadRow:
            continue
        said = [message for message in chat["messages"] if message["role"] == "assistant"]
        assert rendered.how == PREFIXES
        left, at = [], 0
        for message, (start, stop) in zip(said, rendered.spans, strict=True):
            content = message.get("content", "").strip()
            if not message.get("tool_calls"):
                assert content in rendered.text[start:stop]
            left.append(rendered.text[at:start])
            at = stop
        rest = "|".join([*left, rendered.text[at:]])
        others = "|".join(str(message.get("content")) for message in chat["messages"] if message not in said)
        for message in said:
            content = message.get("content", "").strip()
            assert not content or content in others or content not in rest, title


@pytest.mark.parametrize(
    ("name", "spans"),
    [
        ("llama3_2", ["First.<|eot_id|>", "Second.<|eot_id|>"]),
        ("gemma4", ["First.<turn|>", "Second.<turn|>"]),
        ("llama-2", [" First. </s>", " Second. </s>"]),
        ("zephyr", ["First.<|eos|>", "Second.<|eos|>"]),
        ("alpaca", ["First.</s>", "Second.</s>"]),
    ],
)
def test_a_turn_is_its_text_and_its_end_without_white_space_behind(name: str, spans: list[str]) -> None:
    assert _marked_turns(name, "system and turns") == spans


REFUSED = [
    (
        "gemma4_v5",
        "reasoning twice",
        "the template has no generation markers, TRL has no training template for it, and rendering message 2"
        " changes what stands before it",
    ),
    (
        "llama3_1",
        "assistant first",
        "the template has no generation markers, TRL has no training template for it, and the first message is the"
        " assistant's, and there is nothing to render before it",
    ),
    ("llama3", "tools", "the chat template leaves out all that message 2 says"),
    ("idefics3", "single", "the chat template leaves out all that message 2 says"),
    (
        "transformers/qwen2_audio",
        "tools without content",
        "the chat template leaves out all that message 2 says",
    ),
    ("mistral", "system", "the chat template refuses the row: only user and assistant"),
]


@pytest.mark.parametrize(("name", "title", "what"), REFUSED)
def test_what_cannot_be_proven_is_refused_with_the_reason(name: str, title: str, what: str) -> None:
    encoder = _encoder({**IN_USE, **templates()}[name], assistant_only_loss=True)
    (refused,) = encoder.encode([_chat(title)])
    assert isinstance(refused, BadRow)
    assert (refused.what, refused.malformed) == (what, True)


def test_a_template_with_markers_is_used_as_it_is() -> None:
    assert _masker(templates()["lfm2_2_5"]).render(_chat("turns")).how == MARKERS
