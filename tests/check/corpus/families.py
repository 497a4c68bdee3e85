"""Tiny models of many families, with random weights: what their files are named and how they are shaped is the family's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.check.corpus.bench import Bench

COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
EXPERTS = {
    **COMMON,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**COMMON, "tie_word_embeddings": False},
    "mistral": COMMON,
    "qwen2": {**COMMON, "tie_word_embeddings": True},
    "qwen3": {**COMMON, "head_dim": 16},
    "gemma": {**COMMON, "head_dim": 16},
    "gemma2": {**COMMON, "head_dim": 16},
    "gemma3_text": {**COMMON, "head_dim": 16},
    "phi": COMMON,
    "phi3": COMMON,
    "gpt2": GPT2,
    "gpt_neox": COMMON,
    "gptj": {**GPT2, "rotary_dim": 8},
    "gpt_bigcode": GPT2,
    "opt": {**COMMON, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "bloom": {"vocab_size": 512, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "falcon": {**COMMON, "alibi": False},
    "mpt": {"vocab_size": 512, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
    "olmo": COMMON,
    "olmo2": COMMON,
    "stablelm": COMMON,
    "starcoder2": COMMON,
    "granite": COMMON,
    "cohere": COMMON,
    "smollm3": COMMON,
    "mixtral": EXPERTS,
    "qwen2_moe": EXPERTS,
    "qwen3_moe": {**EXPERTS, "head_dim": 16},
    "olmoe": EXPERTS,
}
"""Model type -> its configuration."""


def write_family(directory: Path, family: str, tokenizer: Path) -> Path:
    """Save a model of a family, with the tokenizer of the tiny model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(directory)
    for file in tokenizer.iterdir():
        if "token" in file.name or file.suffix == ".jinja":
            shutil.copy(file, directory)
    return directory


def with_family(bench: Bench, model: Path) -> None:
    """Have another model in the place of the case's own."""
    shutil.rmtree(bench.model)
    shutil.copytree(model, bench.model)
