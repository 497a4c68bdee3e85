"""What cannot keep samples apart that share a row.

Found by comparing logits and gradients of packed samples with those of the same samples alone, for every causal
language model of transformers that a small configuration could be made for; FlashAttention with its kernel
replaced by plain arithmetic.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from sft.config.run import RunConfig
from sft.errors import Problem
from sft.plan.joined import attention, is_flash, joins_rows
from sft.plan.model_shape import read_model_shape
from sft.plan.plan import Plan

TRIED = (None, "eager", "sdpa", "flex_attention")
"""Implementations besides FlashAttention that hold rows to transformers' mask, which knows where samples begin."""

MIXES = frozenset(
    (
        "bart", "big_bird", "bigbird_pegasus", "blenderbot", "blenderbot-small", "bloom",
        "camembert", "cpmant", "data2vec-text", "falcon", "falcon_mamba", "inkling_text",
        "inkling2_text", "jamba", "lfm3", "mamba", "mamba2", "marian", "mbart", "megatron-bert",
        "minimax", "mpt", "mvp", "openai-gpt", "pegasus", "plbart", "prophetnet", "recurrent_gemma",
        "rembert", "roberta", "roberta-prelayernorm", "roformer", "rwkv", "trocr", "xglm", "xlm",
        "xlm-roberta", "xlm-roberta-xl", "xlnet", "xlstm", "zaya",
    )
)  # fmt: skip
"""Model types whose state, convolution, ALiBi or positions run on from one sample into the next."""
FLASH_ONLY = frozenset(
    (
        "afmoe", "bert", "bert-generation", "biogpt", "electra", "ernie", "gpt_oss",
        "granitemoehybrid", "opt", "roc_bert",
    )
)  # fmt: skip
"""Model types that make their mask without position ids; FlashAttention is told the samples' bounds beside it."""
CONVOLUTION = frozenset(
    (
        "bailing_hybrid", "bamba", "falcon_h1", "granitemoehybrid", "kimi_linear", "lfm2",
        "lfm2_moe", "nemotron_h", "olmo_hybrid", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next",
        "qwen4_exp_text", "zamba", "zamba2",
    )
)  # fmt: skip
"""Model types with linear attention or a state-space layer that a CUDA kernel keeps apart; without it they raise."""
ATTENTION_LAYERS = {"attention", "full_attention", "sliding_attention", "chunked_attention"}


def _remove(config: RunConfig) -> str:
    return "packing: false" if config.training.packing else "padding_free: false"


def _key(config: RunConfig) -> str:
    return "packing" if config.training.packing else "padding_free"


def _has_other_layers(shape: dict[str, Any]) -> bool:
    """Whether a hybrid model has layers besides attention, as its configuration lists them."""
    kinds = shape.get("layer_types") or shape.get("layers_block_type")
    return not isinstance(kinds, list) or not set(kinds) <= ATTENTION_LAYERS


def attention_that_is_not_known(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """paged|eager: "called without a paged attention cache"; for another name transformers makes no mask at all.

    An attention registered under a name of its own, doing what sdpa does: logits differed by 2.2 of at most 1.6.
    """
    implementation = attention(config)
    if not joins_rows(config) or config.kit.allow_sample_mixing:
        return
    if implementation not in TRIED and (not is_flash(implementation) or implementation.startswith("paged|")):
        yield Problem(
            f"{implementation} attention is given no bounds of packed samples",
            "attn_implementation",
            f"set attn_implementation: sdpa, or {_remove(config)}",
        )


def models_that_mix_samples(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """mamba2: logits differed by 9.65 of at most 8.4; bloom (ALiBi) by 0.42 of 3.3; falcon by 0.86 of 1.6."""
    shape = read_model_shape(config.model.model_name_or_path)
    if shape.get("model_type") in MIXES and joins_rows(config) and not config.kit.allow_sample_mixing:
        yield Problem(
            f"{shape['model_type']} models cannot keep packed samples apart",
            _key(config),
            f"set {_remove(config)}; train_sampling_strategy: group_by_length keeps padding low",
        )


def models_that_need_flash_attention(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """gpt_oss, eager: logits differed by 2.2 of at most 1.7; with the bounds that FlashAttention is given by 2e-7."""
    shape = read_model_shape(config.model.model_name_or_path)
    apart = is_flash(attention(config)) or config.kit.allow_sample_mixing
    if shape.get("model_type") in FLASH_ONLY and joins_rows(config) and not apart:
        yield Problem(
            f"{shape['model_type']} models keep packed samples apart with FlashAttention only, not with"
            f" {attention(config) or 'sdpa or eager, the default'}",
            _key(config),
            f"set attn_implementation: a FlashAttention that the model supports, or {_remove(config)}",
        )


def models_that_need_a_convolution_kernel(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """ValueError: "`causal_conv1d_fn` can't keep packed sequences apart without `causal_conv1d`", at the first step."""
    shape = read_model_shape(config.model.model_name_or_path)
    if shape.get("model_type") not in CONVOLUTION or not joins_rows(config) or not _has_other_layers(shape):
        return
    if plan.device == "cpu" or importlib.util.find_spec("causal_conv1d") is None:
        yield Problem(
            f"{shape['model_type']} models keep packed samples apart on GPUs only, with the package causal-conv1d",
            _key(config),
            f"set {_remove(config)}"
            + ("" if plan.device == "cpu" else ", or pip install causal-conv1d flash-linear-attention"),
        )


def sequences_cut_over_processes(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """TRL: "Packing is not compatible with context parallelism", which drops the mask; Ulysses was not tried."""
    parallel = config.training.parallelism_config or {}
    for key, what in (("cp_size", "context parallelism"), ("sp_size", "sequence parallelism")):
        if joins_rows(config) and parallel.get(key, 1) > 1:
            yield Problem(
                f"{what} ({key} {parallel[key]}) does not keep packed samples apart",
                "parallelism_config",
                f"remove {key}, or set {_remove(config)}",
            )


def packed_evaluation_of_padded_training(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """TRL packs the test rows and then collates them as plain ones: no position ids, and samples see one another."""
    training = config.training
    strategy_is_plain = training.packing_strategy == "wrapped"
    if training.eval_packing and not joins_rows(config) and not config.kit.allow_sample_mixing:
        yield Problem(
            "eval_packing without packing lets the samples of a packed test row see one another",
            "eval_packing",
            "remove it" if strategy_is_plain else "remove it, or set packing: true",
        )


RULES = (
    attention_that_is_not_known,
    models_that_mix_samples,
    models_that_need_flash_attention,
    models_that_need_a_convolution_kernel,
    sequences_cut_over_processes,
    packed_evaluation_of_padded_training,
)
