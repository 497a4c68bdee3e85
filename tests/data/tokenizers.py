"""Small trained tokenizers of every kind that models come with, saved as models save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.tiny import CHAT_TEMPLATE

TEXTS = [
    "The cat sat on the mat, and 12 dogs ran 345 miles through Zürich.",
    "Привет, как дела? 你好 世界。 naïve façade e\u0301",
    "def add(a, b):\n    return a + b\n\n\n  # don't stop, they're here",
    "user assistant system\nWhat is number 7 about lists?",
] * 20
CHATML = ["<|im_start|>", "<|im_end|>"]
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _trained(
    tokenizer: Tokenizer, specials: list[str], alphabet: list[str], trainer: Any = trainers.BpeTrainer
) -> Tokenizer:
    arguments = {"vocab_size": 600, "special_tokens": specials, "show_progress": False}
    if trainer is not trainers.WordPieceTrainer and alphabet:
        arguments["initial_alphabet"] = alphabet
    if trainer is trainers.UnigramTrainer:
        arguments["unk_token"] = "<unk>"
    tokenizer.train_from_iterator(TEXTS, trainer(**arguments))
    return tokenizer


def byte_level(regex: str | None = None, *, nfc: bool = False) -> Tokenizer:
    """GPT-2's kind; with Qwen's expression for the splits, Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    inner = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    split = None if regex is None else pre_tokenizers.Split(Regex(regex), behavior="isolated")
    tokenizer.pre_tokenizer = inner if split is None else pre_tokenizers.Sequence([split, inner])
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, ["<|endoftext|>", *CHATML], pre_tokenizers.ByteLevel.alphabet())


def _byte_fallback(tokenizer: Tokenizer, specials: list[str], **flags: Any) -> Tokenizer:
    """Give a trained BPE the bytes that SentencePiece falls back on."""
    fields = json.loads(
        _trained(tokenizer, [*specials, *[f"<0x{byte:02X}>" for byte in range(256)]], []).to_str()
    )
    fields["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>", **flags}
    fields["added_tokens"] = [one for one in fields["added_tokens"] if not one["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(fields))


def metaspace(scheme: str = "first") -> Tokenizer:
    """Llama 2's kind: a space before the text, and `▁` for spaces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Metaspace()
    trained = _byte_fallback(tokenizer, ["<unk>", "<s>", "</s>", *CHATML])
    trained.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return trained


def prepending() -> Tokenizer:
    """Llama 2's kind as older files write it: the space is put there by the normalizer, before every piece."""
    fields = json.loads(metaspace().to_str())
    fields["pre_tokenizer"] = None
    fields["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    return Tokenizer.from_str(json.dumps(fields))


def gemma() -> Tokenizer:
    """Gemma's kind: `▁` for spaces, nothing before the text, `<bos>` in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trained = _byte_fallback(tokenizer, ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *CHATML])
    trained.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return trained


def unigram() -> Tokenizer:
    """T5's kind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _trained(tokenizer, ["<unk>", "<s>", "</s>", *CHATML], [], trainers.UnigramTrainer)


def word_piece() -> Tokenizer:
    """BERT's kind: lower case, and no white space in any token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _trained(tokenizer, ["<unk>", *CHATML], [], trainers.WordPieceTrainer)


def save(
    directory: Path, tokenizer: Tokenizer, tokenizer_class: str, model_type: str | None = None, **config: Any
) -> Path:
    """Write a model's directory, as far as tokenizers are concerned."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    fields = {"tokenizer_class": tokenizer_class, "eos_token": "<|im_end|>", **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(fields))
    if model_type is not None:
        (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return directory


def added(content: str, **flags: Any) -> AddedToken:
    """An added token that is not special."""
    return AddedToken(content, normalized=False, **flags)
