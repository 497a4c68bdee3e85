"""Runs whose memory is predicted and measured: shapes of many families, and settings that decide about memory."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import tiny

VOCABULARY = 2048
EXPERTS = ("qwen3-moe", "mixtral")
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 2}),
    "llama-tied": (
        "LlamaConfig",
        {"num_key_value_heads": 4, "tie_word_embeddings": True, "num_hidden_layers": 6},
    ),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", {"num_key_value_heads": 2, "head_dim": 96}),
    "mistral": ("MistralConfig", {"num_key_value_heads": 1, "sliding_window": 64}),
    "gemma": ("GemmaConfig", {"num_key_value_heads": 1, "head_dim": 128, "tie_word_embeddings": True}),
    "phi3": ("Phi3Config", {"num_key_value_heads": 4}),
    "olmo2": ("Olmo2Config", {"num_key_value_heads": 4}),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 1024, "tie_word_embeddings": True},
    ),
    "gpt-neox": ("GPTNeoXConfig", {}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        {"num_key_value_heads": 2, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 192},
    ),
    "mixtral": (
        "MixtralConfig",
        {"num_key_value_heads": 2, "num_local_experts": 4, "intermediate_size": 320},
    ),
    "smollm3": ("SmolLM3Config", {"num_key_value_heads": 2}),
}


def write_model(name: str, directory: Path, tokenizer: Path) -> Path:
    """Write a model of one family with random weights, and a tokenizer that it can be trained with."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (directory / "config.json").exists():
        return directory
    kind, own = SHAPES[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**COMMON, **own})
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(directory)
    return directory


def write_rows(path: Path, count: int = 64) -> Path:
    """Write texts that are longer than any length that is asked for."""
    rows = [
        {"text": " ".join(f"number {row * word} about threads and files" for word in range(200))}
        for row in range(count)
    ]
    return tiny.write_rows(path, rows)


def _case(**settings: Any) -> dict[str, Any]:
    return {
        "max_length": 256,
        "per_device_train_batch_size": 4,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "max_cut_answers": 1,
        **settings,
    }


LORA = {"use_peft": True, "lora_target_modules": "all-linear", "lora_r": 8}
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "full-amp": {"bf16": True},
    "full-bf16": {"bf16": True, "dtype": "bfloat16"},
    "lora": LORA,
    "lora-amp": {**LORA, "bf16": True},
    "lora-bf16": {**LORA, "bf16": True, "dtype": "bfloat16"},
    "lora-r64": {**LORA, "lora_r": 64, "lora_dropout": 0.0},
}
EVALUATED = (("llama", "full"), ("qwen2", "lora-amp"), ("gemma", "full-bf16"), ("gpt2", "lora"))
"""Runs whose evaluation holds more than their training: eight rows at once where a step has one."""
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd", "adafactor", "rmsprop", "adagrad")


SCORED = {
    "compute_metrics": "tests.plan.memory_cases:count_them",
    "eval_strategy": "steps",
    "eval_steps": 2,
    "validation_fraction": 0.0625,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 2,
}
QLORA = {**LORA, "load_in_4bit": True, "bf16": True, "dtype": "bfloat16"}
GALORE = {"optim_target_modules": "all-linear", "optim_args": "rank=16"}
APOLLO = {"optim_target_modules": ["q_proj", "mlp"], "optim_args": "rank=16"}
OTHER_WAYS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama", "qlora", QLORA),
    ("qwen2", "qlora-nested", {**QLORA, "use_bnb_nested_quant": True, "gradient_checkpointing": True}),
    ("mistral", "qlora-float32", {**QLORA, "dtype": "float32", "lora_r": 64}),
    ("llama", "dora", {**LORA, "use_dora": True, "lora_dropout": 0.0}),
    ("qwen2", "dora-dropout-bf16", {**LORA, "use_dora": True, "bf16": True, "dtype": "bfloat16"}),
    ("qwen3-moe", "lora-experts", {**LORA, "lora_dropout": 0.0}),
    ("mixtral", "lora-experts-bf16", {**LORA, "lora_dropout": 0.0, "bf16": True, "dtype": "bfloat16"}),
    ("qwen3-moe", "lora-experts-again", {**LORA, "lora_dropout": 0.0, "gradient_checkpointing": True}),
    ("llama", "packed", {"packing": True, "per_device_train_batch_size": 1, "max_length": 512}),
    ("qwen2", "packed-lora-amp", {**LORA, "packing": True, "per_device_train_batch_size": 1, "bf16": True}),
    ("llama", "adamw_8bit", {"optim": "adamw_8bit"}),
    ("llama-tied", "adamw_8bit-bf16", {"optim": "adamw_bnb_8bit", "bf16": True, "dtype": "bfloat16"}),
    ("qwen2", "lion_8bit", {"optim": "lion_8bit"}),
    ("qwen3", "lion_32bit-bf16", {"optim": "lion_32bit", "bf16": True, "dtype": "bfloat16"}),
    ("llama", "paged_adamw_32bit", {"optim": "paged_adamw_32bit"}),
    ("mistral", "rmsprop_bnb", {"optim": "rmsprop_bnb"}),
    ("llama", "ademamix", {"optim": "ademamix"}),
    ("llama", "ademamix_8bit", {"optim": "ademamix_8bit"}),
    ("llama", "sgd-momentum", {"optim": "sgd", "optim_args": "momentum=0.9"}),
    ("llama", "galore", {"optim": "galore_adamw", **GALORE}),
    ("llama-tied", "galore-bf16", {"optim": "galore_adamw", **GALORE, "bf16": True, "dtype": "bfloat16"}),
    ("qwen2", "galore_adafactor", {"optim": "galore_adafactor", **GALORE}),
    ("llama", "galore-layerwise", {"optim": "galore_adamw_layerwise", **GALORE}),
    ("llama", "apollo", {"optim": "apollo_adamw", **APOLLO}),
    ("qwen3", "apollo-svd", {"optim": "apollo_adamw", **APOLLO, "optim_args": "rank=16,proj=svd"}),
    ("llama", "smoothed", {"label_smoothing_factor": 0.1}),
    ("qwen2", "smoothed-amp", {"label_smoothing_factor": 0.1, "bf16": True, "gradient_checkpointing": True}),
    ("llama", "smoothed-bf16", {"label_smoothing_factor": 0.1, "bf16": True, "dtype": "bfloat16"}),
    ("gemma", "smoothed-lora", {"label_smoothing_factor": 0.1, **LORA}),
    ("llama", "metrics", {**SCORED, "eval_accumulation_steps": 2}),
    ("qwen2", "metrics-amp", {**SCORED, "eval_accumulation_steps": 2, "bf16": True}),
)
"""Family, name and settings of what is rarer: four bits, other optimizers, all logits at once, metrics of one's own."""


STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3", "zero3_offload")
SHARDED = (
    ("llama", "full", False, 1),
    ("llama", "full-amp", True, 2),
    ("qwen2", "lora", True, 1),
    ("llama-tied", "lora-bf16", False, 1),
    ("qwen3", "full", True, 1),
)
"""Family, method, checkpointing and accumulation of the runs that each strategy is measured with."""
SHARDED_HELD_OUT = (
    ("mistral", "full-bf16", True, 2),
    ("gemma", "lora-amp", False, 1),
)
"""The same of runs that were measured once all formulas stood."""
HELD_OUT_SEED, HELD_OUT = 1, 52


def count_them(prediction: Any) -> dict[str, float]:
    """Score an evaluation, so that it keeps its logits."""
    return {"count": float(len(prediction.predictions))}


def other_ways() -> dict[str, Mapping[str, Any]]:
    """Return the runs of one process that no dice are thrown for."""
    return {
        f"other-{family}-{name}": _case(model=family, **settings) for family, name, settings in OTHER_WAYS
    }


def held_out() -> dict[str, Mapping[str, Any]]:
    """Draw runs of one process that no formula was looked at with."""
    return {f"held-{name}": case for name, case in cases(HELD_OUT_SEED, HELD_OUT).items()}


def sharded(strategy: str, *, is_held_out: bool = False) -> dict[str, Mapping[str, Any]]:
    """Return the runs of two processes under one strategy."""
    found: dict[str, Mapping[str, Any]] = {}
    for family, method, checkpointing, accumulation in SHARDED_HELD_OUT if is_held_out else SHARDED:
        settings = _case(
            model=family,
            gradient_checkpointing=checkpointing,
            gradient_accumulation_steps=accumulation,
            **METHODS[method],
        )
        words = [
            *["held"] * is_held_out,
            strategy,
            family,
            method,
            "ckpt" if checkpointing else "all",
            *["twice"] * (accumulation - 1),
        ]
        found["-".join(words)] = settings
    return found


def cases(seed: int = 0, count: int = 96) -> dict[str, Mapping[str, Any]]:
    """Draw runs of one process, each family and each method about as often as any other."""
    dice = random.Random(seed)
    found: dict[str, Mapping[str, Any]] = {}
    families, methods = list(SHAPES), list(METHODS)
    for index in range(count):
        family, method = families[index % len(families)], methods[index % len(methods)]
        rows, length = dice.choice(((1, 512), (2, 256), (4, 256), (8, 128), (3, 384)))
        settings = _case(
            model=family,
            max_length=length,
            per_device_train_batch_size=rows,
            gradient_checkpointing=dice.random() < 0.4,
            gradient_accumulation_steps=dice.choice((1, 1, 2)),
            **METHODS[method],
        )
        if family in EXPERTS and method.startswith("lora"):
            settings["lora_target_modules"] = ["q_proj", "v_proj"]  # adapters of experts are not planned
        if method.startswith("full"):
            settings["optim"] = dice.choice(OPTIMIZERS)
        if dice.random() < 0.2 and family not in ("gpt2", "gpt-neox"):
            settings["attn_implementation"] = "eager"
        if dice.random() < 0.15:
            settings["loss_type"] = "dft"
        words = [family, method, f"{rows}x{length}", "ckpt" if settings["gradient_checkpointing"] else "all"]
        words += [settings[key] for key in ("optim", "attn_implementation", "loss_type") if key in settings]
        words += ["twice"] if settings["gradient_accumulation_steps"] == 2 else []
        found[f"{index:03}-" + "-".join(words)] = settings
    for index, (family, method) in enumerate(EVALUATED):
        evaluation = {"eval_strategy": "steps", "eval_steps": 2, "validation_fraction": 0.25}
        settings = _case(
            model=family, per_device_train_batch_size=1, gradient_checkpointing=True, **METHODS[method]
        )
        found[f"{count + index:03}-{family}-{method}-evaluated"] = settings | evaluation
    return found
