"""Whether transformers tokenizes by a model's `tokenizer.json` as it stands.

It does for the general classes. Classes of their own (LlamaTokenizer, Qwen2Tokenizer...) take no more than the
vocabulary from the file and build the rest anew, so that a file can say one thing and `AutoTokenizer` do another. Four
of them are known here, each with what it builds: where the file says the same, the file is as good. All others go
through transformers itself.

Source:
    transformers/models/auto/tokenization_auto.py (which class is taken), tokenization_utils_tokenizers.py, and the
    module of each class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

GENERAL = {"TokenizersBackend", "PreTrainedTokenizer", "PythonBackend"}
"""Classes that take the file as it stands; without the ending "Fast"."""
DECIDED_BY_MODEL = {
    "hyperclovax_vision_v2": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3_5": "Qwen3_5Tokenizer",
    "qwen3_5_moe": "Qwen3_5Tokenizer",
    "qwen3_5_moe_text": "Qwen3_5Tokenizer",
    "qwen4_exp": "Qwen3_5Tokenizer",
    "siglip2": "Siglip2Tokenizer",
    **dict.fromkeys(
        (
            "arctic", "camembertv2-base", "chatlm", "cohere_asr", "ernie4_5", "ernie4_5_moe", "fuyu", "h2ovl_chat",
            "hyperclovax", "hyperclovax_vlm", "internlm2", "internlm3", "iquestcoder", "jamba", "llava", "llava_next",
            "minicpm3", "minicpmv", "minimax_m2", "modernbert", "modernbert-decoder", "molmo", "molmo2", "nemotron",
            "nvfp4", "opencua", "openvla", "paddleocr_vl", "phi3", "phi3_v", "phimoe", "smolvlm", "step3_vl", "vipllava",
        ),
        "TokenizersBackend",
    ),
}  # fmt: skip
"""Models whose class transformers knows better than their files."""

_END = "<|endoftext|>"
DEFAULTS: dict[str, dict[str, str]] = {
    "GPT2Tokenizer": {"unk_token": _END, "bos_token": _END, "eos_token": _END},
    "Qwen2Tokenizer": {"unk_token": _END, "eos_token": _END, "pad_token": _END},
    "Qwen3_5Tokenizer": {"unk_token": _END, "eos_token": _END, "pad_token": _END},
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GemmaTokenizer": {
        "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"
    },
}  # fmt: skip
"""Special tokens that a class takes where the model's files name none."""

_LETTERS = (r"\p{L}+", r"\p{L}\p{N}"), (r"[\p{L}\p{M}]+", r"\p{L}\p{M}\p{N}")


def tokenizer_class(
    config: Mapping[str, Any], model: Mapping[str, Any], file: Mapping[str, Any]
) -> str | None:
    """Return the class that transformers takes, without the ending "Fast"; None where only it can tell.

    Args:
        config: tokenizer_config.json. model: config.json. file: tokenizer.json.
    """
    auto_map, model_type = config.get("auto_map"), model.get("model_type")
    if isinstance(auto_map, dict) and "AutoTokenizer" in auto_map:
        return None
    if isinstance(model_type, str) and model_type in DECIDED_BY_MODEL:
        return DECIDED_BY_MODEL[model_type]
    declared = config.get("tokenizer_class") or model.get("tokenizer_class")
    if declared is None:
        return None if model_type else "TokenizersBackend"
    name = str(declared).removesuffix("Fast")
    if name in GENERAL or (name == "LlamaTokenizer" and _has_byte_level(file)):
        return "TokenizersBackend"
    return name


def is_as_built(name: str, config: Mapping[str, Any], file: Mapping[str, Any]) -> bool:
    """Whether a `tokenizer.json` says what the class would build."""
    if name == "TokenizersBackend":
        return True
    if name not in BUILT or file["model"].get("type") != "BPE":
        return False
    normalizer, splits, flags = BUILT[name](config)
    model = {
        "byte_fallback": False,
        "fuse_unk": False,
        "ignore_merges": False,
        "dropout": None,
        **file["model"],
    }
    return (
        _bare(file.get("normalizer")) == normalizer
        and _bare(file.get("pre_tokenizer")) == splits
        and bool(model["byte_fallback"]) is flags
        and (bool(model["fuse_unk"]) is flags)
        and not model["ignore_merges"]
        and not model["dropout"]
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
    )


def _bytes(*, prefix: Any, regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": bool(prefix), "use_regex": regex}


Built = tuple[dict[str, Any] | None, dict[str, Any], bool]
"""Normalizer, pre-tokenizer, and whether unknown characters become bytes."""


def _gpt2(config: Mapping[str, Any]) -> Built:
    return None, _bytes(prefix=config.get("add_prefix_space"), regex=True), False


def _qwen(letters: str, all_kinds: str) -> Callable[[Mapping[str, Any]], Built]:
    regex = (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?{letters}|\p{{N}}| ?[^\s{all_kinds}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}

    def build(config: Mapping[str, Any]) -> Built:
        pieces = [split, _bytes(prefix=config.get("add_prefix_space"), regex=False)]
        return {"type": "NFC"}, {"type": "Sequence", "pretokenizers": pieces}, False

    return build


def _llama(config: Mapping[str, Any]) -> Built:
    prefix = config.get("add_prefix_space")
    scheme = (
        "never" if prefix is not None and not prefix else "always" if config.get("legacy", False) else "first"
    )
    return None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}, True


def _gemma(config: Mapping[str, Any]) -> Built:
    space = {"pattern": {"String": " "}}
    split = {"type": "Split", **space, "behavior": "MergedWithPrevious", "invert": False}
    return {"type": "Replace", **space, "content": "▁"}, split, True


BUILT: dict[str, Callable[[Mapping[str, Any]], Built]] = {
    "GPT2Tokenizer": _gpt2,
    "Qwen2Tokenizer": _qwen(*_LETTERS[0]),
    "Qwen3_5Tokenizer": _qwen(*_LETTERS[1]),
    "LlamaTokenizer": _llama,
    "GemmaTokenizer": _gemma,
}


def _bare(part: Any) -> Any:
    """Leave out what has no part in where a text is split."""
    if isinstance(part, dict):
        return {key: _bare(value) for key, value in part.items() if key != "trim_offsets"}
    return [_bare(item) for item in part] if isinstance(part, list) else part


def _has_byte_level(file: Mapping[str, Any]) -> bool:
    part = file.get("pre_tokenizer") or {}
    return any(one.get("type") == "ByteLevel" for one in (part, *part.get("pretokenizers", [])))
