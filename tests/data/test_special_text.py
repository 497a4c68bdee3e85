"""Content that spells a special token stays text, token for token as transformers' `sanitize_control_tokens` has it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from sft.data.encode import Encoded, Encoder
from sft.data.loss import EncodeSettings
from sft.data.sample import BadRow, Chat
from sft.data.tokenizer import TokenizerFiles, read_tokenizer
from tests.data import tokenizers as kinds

THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ ('' if '<think>' in m.content else '<think>\n\n</think>\n\n') + m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
SPELLING = [
    "hello <|im_end|> there",
    "<|im_end|>",
    "a<|im_start|>assistant\nno<|im_end|>",
    "<think> hm </think>x",
    "x  <|im_end|>  y",
    "<|im_<|im_end|>end|>",
    "  <|im_end|>",
]
KINDS: dict[str, tuple[Any, str]] = {
    "byte-level": (kinds.byte_level, "PreTrainedTokenizerFast"),
    "metaspace first": (kinds.metaspace, "LlamaTokenizer"),
    "metaspace always": (lambda: kinds.metaspace("always"), "PreTrainedTokenizerFast"),
    "prepending normalizer": (kinds.prepending, "PreTrainedTokenizerFast"),
    "gemma": (kinds.gemma, "GemmaTokenizer"),
    "unigram": (kinds.unigram, "PreTrainedTokenizerFast"),
    "word piece": (kinds.word_piece, "PreTrainedTokenizerFast"),
}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make a tokenizer of a kind: as we read it, and as transformers does."""
    root = tmp_path_factory.mktemp("kinds")

    @lru_cache(maxsize=16)
    def make(kind: str) -> tuple[TokenizerFiles, Any]:
        from transformers import AutoTokenizer

        build, name = KINDS[kind]
        tokenizer = build()
        tokenizer.add_tokens([kinds.added(token) for token in ("<think>", "</think>", "<other>")])
        directory: Path = kinds.save(root / kind, tokenizer, name, "llama")
        (directory / "chat_template.jinja").write_text(THINKING)
        return read_tokenizer(str(directory)), AutoTokenizer.from_pretrained(directory)

    return make


def _chat(content: str, answer: str = "Fine.") -> Chat:
    return Chat([{"role": "user", "content": content}, {"role": "assistant", "content": answer}])


@pytest.mark.parametrize("content", SPELLING)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers_with_sanitized_tokens(kind: str, content: str, read: Any) -> None:
    files, theirs = read(kind)
    encoder, chat = Encoder(files, EncodeSettings(assistant_only_loss=True)), _chat(content)
    (found,) = encoder.encode([chat])
    if (
        kind == "unigram" and "<|im_" in content
    ):  # its vocabulary can spell the tokens, so no text can be told apart
        with pytest.raises(ValueError, match="Can't sanitize"):
            theirs.apply_chat_template(list(chat.messages), sanitize_control_tokens=True)
        assert isinstance(found, BadRow)
        assert found.what.endswith("> of plain text too")
        assert found.reason == "special token in content"
        return
    assert isinstance(found, Encoded)
    expected = theirs.apply_chat_template(list(chat.messages), sanitize_control_tokens=True)["input_ids"]
    assert found.ids.tolist() == expected
    assert found.special_text
    end = encoder.tokenizer.token_to_id("<|im_end|>")
    assert found.ids.tolist().count(end) == 2
    _only_the_answer(encoder, found)


def _only_the_answer(encoder: Encoder, found: Encoded) -> None:
    """From `<think>` of the assistant to the end of its turn, without a gap."""
    ids, token = found.ids.tolist(), encoder.tokenizer.token_to_id
    behind = len(ids) - ids[::-1].index(token("<|im_end|>"))
    start = behind - ids[:behind][::-1].index(token("<think>")) - 1
    assert list(found.mask) == [int(start <= index < behind) for index in range(len(ids))]


@pytest.mark.parametrize("kind", KINDS)
def test_without_such_text_the_ids_are_the_usual_ones(kind: str, read: Any) -> None:
    files, theirs = read(kind)
    encoder = Encoder(files, EncodeSettings(assistant_only_loss=True))
    for content in ("hello <other> there", "", "  spaces  ", "< think >", "Zürich 世界 \U0001f600"):
        (found,) = encoder.encode([_chat(content)])
        assert isinstance(found, Encoded)
        assert not found.special_text
        assert found.ids.tolist() == theirs.apply_chat_template(list(_chat(content).messages))["input_ids"]
        _only_the_answer(encoder, found)


def test_the_assistant_may_write_tokens_that_are_not_special(read: Any) -> None:
    files, _ = read("byte-level")
    encoder = Encoder(files, EncodeSettings(assistant_only_loss=True))
    (found,) = encoder.encode([_chat("Why?", "<think>hm</think>So.")])
    assert isinstance(found, Encoded)
    assert not found.special_text
    assert {encoder.tokenizer.token_to_id(token) for token in ("<think>", "</think>")} <= set(found.ids)


def test_the_assistant_does_not_end_its_turn_by_spelling_the_end(read: Any) -> None:
    files, _ = read("byte-level")
    encoder = Encoder(files, EncodeSettings(assistant_only_loss=True))
    (found,) = encoder.encode([_chat("Which token?", "It is <|im_end|> here.")])
    assert isinstance(found, Encoded)
    assert found.special_text
    trained = [token for token, mask in zip(found.ids, found.mask, strict=True) if mask]
    end = encoder.tokenizer.token_to_id("<|im_end|>")
    assert (trained.count(end), trained[-1]) == (1, end)
    said = encoder.tokenizer.decode(trained, skip_special_tokens=False)
    assert said == "<think>\n\n</think>\n\nIt is <|im_end|> here.<|im_end|>"


@pytest.mark.parametrize(
    ("message", "spells"),
    [
        ({"role": "user", "content": "a <think> b"}, True),
        ({"role": "user", "content": "a <other> b"}, False),  # no token of the template's
        ({"role": "system", "content": "<|im_start|>"}, True),
        ({"role": "user", "content": "x", "name": "<|im_end|>"}, True),
        ({"role": "assistant", "content": "x", "reasoning_content": "<|im_end|>"}, True),
        ({"role": "assistant", "content": "x", "reasoning_content": "<think>"}, False),
        ({"role": "user", "content": "<|im_end"}, False),
    ],
)
def test_what_counts_as_special_text(message: dict[str, Any], spells: bool, read: Any) -> None:
    files, _ = read("byte-level")
    chat = Chat([{"role": "user", "content": "Hi"}, message, {"role": "assistant", "content": "Yes"}])
    (found,) = Encoder(files, EncodeSettings()).encode([chat])
    assert isinstance(found, Encoded)
    assert found.special_text is spells


def test_rows_with_special_text_are_refused_where_that_is_asked_for(read: Any) -> None:
    files, _ = read("byte-level")
    encoder = Encoder(files, EncodeSettings(special_tokens_in_content="refuse"))
    refused, kept = encoder.encode([_chat("<|im_end|>"), _chat("plain")])
    assert isinstance(refused, BadRow)
    assert isinstance(kept, Encoded)
    assert (refused.what, refused.fix, refused.reason, refused.malformed) == (
        "the content spells a special token",
        "remove it from the text, or set special_tokens_in_content: text",
        "special token in content",
        False,
    )


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("m.content.split('<|im_end|>')[0]", "the template takes the text apart"),
        ("'x' if m.content.startswith('<|im_end|>') else m.content", "the template reads it"),
    ],
)
def test_a_template_that_looks_into_such_text_is_not_trusted_with_it(
    expression: str, why: str, read: Any
) -> None:
    files, _ = read("byte-level")
    template = f"{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{{{ {expression} }}}}<|im_end|>\n{{% endfor %}}"
    encoder = Encoder(replace(files, templates={"default": template}), EncodeSettings())
    (refused,) = encoder.encode([_chat("<|im_end|> b")])
    assert isinstance(refused, BadRow)
    assert refused.what == f"the content spells a special token, and {why}"
