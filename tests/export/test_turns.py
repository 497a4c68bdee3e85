"""Prompts as they were trained, and where a turn ends: read off the template, never off a list."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from sft.data.template import ChatTemplate
from sft.data.tokenizer import TokenizerFiles, read_tokenizer
from sft.errors import UserError
from sft.export.turns import Ends, Stream, Turns, ends_of
from tests import tiny

LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|endoftext|>\n\n' + m['content'] | trim"
    " + '<|im_end|>' }}{% endfor %}"
)
ENDED_BY_THE_NEXT = "{% for m in messages %}{{ '<|im_start|>' if m['role'] == 'user' else '<|im_end|>' }}{{ m['content'] }}{% endfor %}"
WITHOUT_TOKENS = (
    "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
HARMONY = (  # one end for the last answer, another for those before
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{{ '<|endoftext|>' if loop.last else '<|im_end|>' }}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + (
    tiny.CHAT_TEMPLATE
)


@pytest.fixture(scope="module")
def files(tiny_model: Path) -> TokenizerFiles:
    return read_tokenizer(str(tiny_model))


@pytest.fixture(scope="module")
def tokenizer(files: TokenizerFiles) -> Tokenizer:
    return files.build()


def with_template(files: TokenizerFiles, text: str | None) -> TokenizerFiles:
    from dataclasses import replace

    return replace(files, templates={} if text is None else {"default": text})


@pytest.mark.parametrize(
    ("text", "tokens", "texts"),
    [
        (tiny.CHAT_TEMPLATE, ["<|im_end|>"], ()),
        (LLAMA_3, ["<|im_end|>"], ()),
        (ENDED_BY_THE_NEXT, ["<|im_start|>"], ()),
        (WITHOUT_TOKENS, [], ("\n\n### user:",)),
        (HARMONY, ["<|endoftext|>"], ()),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", [], ()),
    ],
    ids=["chatml", "llama 3", "the next turn", "no tokens", "harmony", "no end"],
)
def test_the_end_of_a_turn_is_read_off_the_template(
    text: str, tokens: list[str], texts: tuple[str, ...], files: TokenizerFiles, tokenizer: Tokenizer
) -> None:
    found = ends_of(ChatTemplate(text, files.special), tokenizer)
    assert found == Ends(frozenset(tokenizer.token_to_id(token) for token in tokens), texts)


def test_the_models_own_ends_count_too(files: TokenizerFiles) -> None:
    turns = Turns(with_template(files, HARMONY), model_ends=[7])
    assert turns.ends.tokens == {0, 2, 7}, "the template's, the tokenizer's and the model's"


def test_a_prompt_has_the_tokens_that_it_has_in_training(files: TokenizerFiles) -> None:
    from transformers import PreTrainedTokenizerFast

    turns = Turns(files)
    chat = tiny.chats(3)[2]["messages"]
    prompt = turns.prompt(chat[:-1])
    reference = PreTrainedTokenizerFast(tokenizer_object=turns.tokenizer, chat_template=tiny.CHAT_TEMPLATE)
    whole = reference.apply_chat_template(chat, return_dict=True)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert turns.decode(whole[len(prompt) :]) == chat[-1]["content"]


def test_what_a_user_spells_is_no_token(files: TokenizerFiles) -> None:
    turns = Turns(files)
    prompt = turns.prompt([{"role": "user", "content": "Say <|im_end|> twice"}])
    assert prompt.count(turns.tokenizer.token_to_id("<|im_end|>")) == 1, "the end of the user's own turn"
    assert "Say <|im_end|> twice" in turns.tokenizer.decode(prompt, skip_special_tokens=False)


def test_a_template_that_refuses_is_told(files: TokenizerFiles) -> None:
    turns = Turns(with_template(files, NO_SYSTEM))
    with pytest.raises(UserError, match="the chat template refuses the conversation: no system role"):
        turns.prompt([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])


def test_without_a_template_what_is_asked_is_continued(files: TokenizerFiles) -> None:
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "x y"},
    ]
    for turns in (Turns(with_template(files, None)), Turns(files, is_plain=True)):
        assert turns.tokenizer.decode(turns.prompt(chat)) == "x y"
        assert turns.ends == Ends(frozenset([2]))


def test_text_comes_only_when_it_can_change_no_more(files: TokenizerFiles) -> None:
    turns = Turns(files)
    stream = Stream(turns)
    ids = turns.tokenizer.encode("a\u20acb").ids
    pieces = [stream.put(token) for token in ids]
    assert [piece for piece in pieces if piece] == ["a", "\u20ac", "b"]
    assert (stream.put(2), stream.is_over, stream.text) == ("", True, "a\u20acb")


def test_an_end_that_is_text_is_held_back_and_cut(files: TokenizerFiles) -> None:
    turns = Turns(with_template(files, WITHOUT_TOKENS))
    stream = Stream(turns)
    seen = ""
    for token in turns.tokenizer.encode("It is so.\n\nAnd so.\n\n### user:\nNext?").ids:
        seen += stream.put(token)
        assert "It is so.\n\nAnd so.".startswith(seen)
        if stream.is_over:
            break
    assert (seen, stream.is_over) == ("It is so.\n\nAnd so.", True)
    assert turns.decode(turns.tokenizer.encode("Yes.\n\n### user:\nMore").ids) == "Yes."
