"""Tokenizers read from a model's own files give the ids that AutoTokenizer gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from sft.data.encode import Encoded, Encoder
from sft.data.loss import EncodeSettings
from sft.data.rebuilt import DECIDED_BY_MODEL, GENERAL
from sft.data.sample import Chat
from sft.data.tokenizer import TokenizerFiles, read_tokenizer, with_template_of
from sft.errors import Problem, UserError
from tests.data import tokenizers as kinds
from tests.data.shipped import CONVERSATIONS

TEXTS = [
    "Hello there, Zürich 123456",
    "  lead <tool> <zz> <yy><img><pad0>  ",
    "don't they're\n\n\n x",
    "e\u0301 你好 世界 \U0001f600 שלום",
    "<|im_end|>",
    "",
    "a<|im_start|> b",
]
BYTES, QWEN = kinds.byte_level, lambda: kinds.byte_level(kinds.QWEN, nfc=True)
LLAMA = {"bos_token": "<s>"}
LISTED = {
    "900": {"content": "<tool>", "special": False, "normalized": False},
    "899": {"content": "<zz>", "special": True},
}
READ_FROM_FILE: list[tuple[str, Any, str, str | None, dict[str, Any]]] = [
    ("general", BYTES, "PreTrainedTokenizerFast", "llama", {}),
    ("general of today", BYTES, "TokenizersBackend", "llama", {}),
    ("without config.json", BYTES, "PreTrainedTokenizerFast", None, {}),
    (
        "bos asked for",
        BYTES,
        "PreTrainedTokenizerFast",
        "llama",
        {"add_bos_token": True, "bos_token": "<|im_start|>"},
    ),
    ("eos asked for", BYTES, "PreTrainedTokenizerFast", "llama", {"add_eos_token": True}),
    (
        "bos not asked for",
        kinds.metaspace,
        "PreTrainedTokenizerFast",
        "llama",
        {"add_bos_token": False, **LLAMA},
    ),
    ("gpt2", BYTES, "GPT2Tokenizer", "gpt2", {}),
    ("qwen2", QWEN, "Qwen2Tokenizer", "qwen2", {"bos_token": None, "pad_token": "<|endoftext|>"}),
    ("qwen3", QWEN, "Qwen2Tokenizer", "qwen3", {"add_bos_token": False, "unk_token": None}),
    ("llama 2", kinds.metaspace, "LlamaTokenizer", "llama", {"add_bos_token": True, **LLAMA}),
    (
        "llama 2 legacy",
        lambda: kinds.metaspace("always"),
        "LlamaTokenizerFast",
        "llama",
        {"legacy": True, **LLAMA},
    ),
    ("llama 3 with llama 2's class", BYTES, "LlamaTokenizerFast", "llama", {}),
    ("phi3", kinds.prepending, "LlamaTokenizer", "phi3", {"add_bos_token": False, **LLAMA}),
    ("gemma", kinds.gemma, "GemmaTokenizer", "gemma2", {"bos_token": "<bos>", "pad_token": "<pad>"}),
    ("unigram", kinds.unigram, "PreTrainedTokenizerFast", "llama", {}),
    ("word piece", kinds.word_piece, "PreTrainedTokenizerFast", "llama", {}),
    (
        "tokens listed beside the file",
        BYTES,
        "PreTrainedTokenizerFast",
        "llama",
        {"added_tokens_decoder": LISTED, "extra_special_tokens": ["<yy>"], "pad_token": "<pad0>"},
    ),
    (
        "tokens with names of the model's own",
        BYTES,
        "PreTrainedTokenizerFast",
        "llama",
        {
            "extra_special_tokens": {"image_token": "<img>"},
            "pad_token": {"__type": "AddedToken", "content": "<|endoftext|>"},
        },
    ),
]
THROUGH_TRANSFORMERS = [
    (
        "gpt2 with other splits",
        lambda: kinds.byte_level(kinds.QWEN),
        "GPT2TokenizerFast",
        "gpt2",
        {},
        "GPT2Tokenizer",
    ),
    ("qwen2 with other splits", BYTES, "Qwen2TokenizerFast", "qwen2", {}, "Qwen2Tokenizer"),
    ("qwen2 with a general class", BYTES, "PreTrainedTokenizerFast", "qwen2", {}, "Qwen2Tokenizer"),
    ("llama 2 with a normalizer", kinds.prepending, "LlamaTokenizer", "llama", LLAMA, "LlamaTokenizer"),
    ("a class not known here", BYTES, "GPTNeoXTokenizerFast", "gpt_neox", {}, "GPTNeoXTokenizer"),
]


def _equals_transformers(directory: Path, files: TokenizerFiles) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(directory), files.build()
    assert files.special == theirs.special_tokens_map
    for text in TEXTS:
        for special in (True, False):
            expected = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, add_special_tokens=special).ids == expected, (text, special)
    encoder = Encoder(files, EncodeSettings())
    for title in ("single", "turns", "unicode", "empty question", "white space", "quotes"):
        messages = CONVERSATIONS[title]["messages"]
        (found,) = encoder.encode([Chat(messages)])
        assert isinstance(found, Encoded)
        assert found.ids.tolist() == theirs.apply_chat_template(messages)["input_ids"], title


@pytest.mark.parametrize(
    ("make", "name", "model_type", "config"),
    [case[1:] for case in READ_FROM_FILE],
    ids=[case[0] for case in READ_FROM_FILE],
)
def test_a_file_that_transformers_takes_as_it_is_gives_its_ids(
    tmp_path: Path, make: Any, name: str, model_type: str | None, config: dict[str, Any]
) -> None:
    directory = kinds.save(tmp_path / "model", make(), name, model_type, **config)
    said: list[str] = []
    files = read_tokenizer(str(directory), say=said.append)
    assert said == []
    _equals_transformers(directory, files)


@pytest.mark.parametrize(
    ("make", "name", "model_type", "config", "taken"),
    [case[1:] for case in THROUGH_TRANSFORMERS],
    ids=[case[0] for case in THROUGH_TRANSFORMERS],
)
def test_a_file_that_transformers_builds_anew_goes_through_it_and_says_so(
    tmp_path: Path, make: Any, name: str, model_type: str, config: dict[str, Any], taken: str
) -> None:
    directory = kinds.save(tmp_path / "model", make(), name, model_type, **config)
    said: list[str] = []
    files = read_tokenizer(str(directory), say=said.append)
    assert said == [
        f"{taken} does not take the tokenizer.json of {directory} as it is: loading the tokenizer through"
        " transformers, which takes some seconds"
    ]
    _equals_transformers(directory, files)


def test_a_tokenizer_that_does_not_say_its_class_goes_through_transformers(tmp_path: Path) -> None:
    directory = kinds.save(tmp_path / "model", BYTES(), "PreTrainedTokenizerFast", "olmo2")
    (directory / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    said: list[str] = []
    files = read_tokenizer(str(directory), say=said.append)
    assert said[0].startswith(f"{directory} does not say which kind of tokenizer it has: ")
    _equals_transformers(directory, files)


def test_vocab_and_merges_go_through_transformers_and_it_is_said(tmp_path: Path) -> None:
    directory = kinds.save(tmp_path / "model", BYTES(), "GPT2Tokenizer", "gpt2")
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    (directory / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"])
    )
    (directory / "tokenizer.json").unlink()
    said: list[str] = []
    files = read_tokenizer(str(directory), say=said.append)
    assert said == [
        f"{directory} has no tokenizer.json: loading the tokenizer through transformers, which takes some seconds"
    ]
    _equals_transformers(directory, files)


def test_a_sentencepiece_model_goes_through_transformers(tmp_path: Path) -> None:
    import sentencepiece

    directory = kinds.save(
        tmp_path / "model", BYTES(), "LlamaTokenizer", "llama", **LLAMA, add_bos_token=True
    )
    (directory / "tokenizer.json").unlink()
    (tmp_path / "corpus.txt").write_text("\n".join(kinds.TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(directory / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    said: list[str] = []
    files = read_tokenizer(str(directory), say=said.append)
    assert len(said) == 1
    _equals_transformers(directory, files)


def test_a_tokenizer_written_in_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError) as refused:
        read_tokenizer(str(tmp_path), say=lambda line: None)
    assert str(refused.value) == (
        "ByT5Tokenizer is written in Python and does not say which characters a token is made of\n"
        "  where: model_name_or_path\n"
        "  fix:   convert it to a tokenizer.json, or use a model that has one"
    )


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"model": 1}'])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=f"the tokenizer of {tmp_path} cannot be read: "):
        read_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("tokenizer_config.json", b"[" * 100_000, "tokenizer_config.json nests its values too deep"),
        ("tokenizer_config.json", b"[1]", "tokenizer_config.json holds no JSON object"),
        ("special_tokens_map.json", b"\xff", "special_tokens_map.json is not UTF-8 text (byte 0)"),
        ("config.json", b"{", "config.json is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ],
)  # fmt: skip
def test_a_broken_file_beside_it_is_named(
    tiny_model: Path, tmp_path: Path, file: str, content: bytes, what: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_tokenizer(str(tmp_path / "model"))
    assert [*caught.value.problems] == [
        Problem(what, str(tmp_path / "model" / file), "fetch the model again")
    ]


NO_IDS = "added_tokens_decoder does not say which tokens have which ids"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"added_tokens_decoder": [1]}, NO_IDS),
        ({"added_tokens_decoder": {"x": 5}}, NO_IDS),
        ({"added_tokens_decoder": {"5": 5}}, NO_IDS),
        ({"added_tokens_decoder": {"5": {"content": None}}}, NO_IDS),
        ({"added_tokens_decoder": {"x": {"content": "<a>"}}}, NO_IDS),
        ({"chat_template": 5}, "chat_template is no text"),
        ({"chat_template": {"default": None}}, "chat_template is no text"),
        ({"chat_template": [5]}, "a chat_template of several has no name or no template"),
        ({"chat_template": [{"name": "default"}]}, "a chat_template of several has no name or no template"),
    ],
)
def test_a_configuration_of_another_form_is_told(
    tiny_model: Path, tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").unlink()
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError) as caught:
        read_tokenizer(str(model))
    assert [*caught.value.problems] == [
        Problem(f"tokenizer_config.json is broken: {what}", str(file), "fetch the model again")
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"extra_special_tokens": None},
        {"extra_special_tokens": 5},
        {"auto_map": 5},
        {"chat_control_tokens": 5},
    ],
)
def test_what_nothing_is_read_from_does_no_harm(
    tiny_model: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert read_tokenizer(str(model)) == read_tokenizer(str(tiny_model))


def test_what_models_are_said_to_take_is_what_transformers_takes() -> None:
    from transformers.models.auto import tokenization_auto

    names = tokenization_auto.TOKENIZER_MAPPING_NAMES
    wrong = tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    assert {name: names[name].removesuffix("Fast") for name in wrong} == DECIDED_BY_MODEL
    for name in ("PreTrainedTokenizerFast", "TokenizersBackend", "PythonBackend"):
        assert name.removesuffix("Fast") in GENERAL


def test_offsets_keep_white_space_whatever_the_file_says() -> None:
    from tokenizers import processors

    tokenizer = BYTES()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    built = TokenizerFiles(tokenizer.to_str(), {}, {}).build()
    assert tokenizer.encode("a cat").offsets[1][0] == 2
    assert built.encode("a cat").offsets[1][0] == 1


def test_a_template_of_another_model_brings_its_tokens_and_its_end_as_in_trl(
    tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import clone_chat_template

    other = kinds.save(
        tmp_path / "other",
        kinds.byte_level(),
        "PreTrainedTokenizerFast",
        "llama",
        extra_special_tokens=["<|turn|>", "<|more|>"],
        added_tokens_decoder=LISTED,
        eos_token="<|turn|>",
    )
    template = (
        "{% for m in messages %}<|turn|>{{ m.role }}<zz>{{ m.content }}<|more|>{% endfor %}{{ eos_token }}"
    )
    (other / "chat_template.jinja").write_text(template)
    (other / "additional_chat_templates").mkdir()
    (other / "additional_chat_templates" / "tool_use.jinja").write_text("no")
    files = with_template_of(read_tokenizer(str(tiny_model)), read_tokenizer(str(other)))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    _, theirs, added = clone_chat_template(model, AutoTokenizer.from_pretrained(tiny_model), str(other))
    assert files.templates == {"default": template}
    assert files.special["eos_token"] == theirs.eos_token
    built = files.build()
    assert [built.token_to_id(token) for token in files.added] == added[: len(files.added)]
    for title in ("single", "turns", "unicode"):
        chat = Chat(CONVERSATIONS[title]["messages"])
        (found,) = Encoder(files, EncodeSettings()).encode([chat])
        assert isinstance(found, Encoded)
        assert found.ids.tolist() == theirs.apply_chat_template(list(chat.messages))["input_ids"]


def test_the_template_for_tools_is_taken_where_there_are_tools() -> None:
    files = TokenizerFiles(
        Tokenizer.from_str(BYTES().to_str()).to_str(), {}, {"default": "a", "tool_use": "b"}
    )
    assert (files.template(has_tools=False), files.template(has_tools=True)) == ("a", "b")
