"""Attentions, models and strategies that cannot keep packed samples apart are refused by name."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from sft.config.kit import Strategy
from sft.config.loader import load_run
from sft.errors import Problem
from sft.plan.combinations import check_combinations
from sft.plan.plan import Plan

NO_PACKING = "set packing: false; train_sampling_strategy: group_by_length keeps padding low"


def problems(
    directory: Path, settings: dict[str, Any], shape: dict[str, Any] | None = None, device: Any = "gpu"
) -> list[Problem]:
    """Check a run of a model whose config.json says `shape`."""
    if shape is not None:
        (directory / "config.json").write_text(json.dumps(shape))
    words = ["--model_name_or_path", str(directory), "--dataset_name", "d"]
    for key, value in settings.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    config = load_run(None, words, environment={}).config
    plan = Plan(strategy=Strategy.DDP, device=device, processes_per_node=2, micro_batch=1, accumulation=1)
    return check_combinations(config, plan)


@pytest.mark.parametrize("model_type", ["mamba2", "bloom", "falcon", "recurrent_gemma", "jamba"])
def test_models_that_mix_samples_are_refused_with_every_attention(tmp_path: Path, model_type: str) -> None:
    expected = [Problem(f"{model_type} models cannot keep packed samples apart", "packing", NO_PACKING)]
    shape = {"model_type": model_type}
    assert problems(tmp_path, {"packing": True}, shape) == expected
    assert (
        problems(tmp_path, {"packing": True, "attn_implementation": "flash_attention_2"}, shape) == expected
    )
    assert problems(tmp_path, {}, shape) == []
    assert problems(tmp_path, {"packing": True, "allow_sample_mixing": True}, shape) == []
    (free,) = problems(tmp_path, {"padding_free": True, "max_length": "null"}, shape)
    assert (free.where, (free.fix or "")[:23]) == ("padding_free", "set padding_free: false")


@pytest.mark.parametrize(
    ("more", "named"),
    [({}, "sdpa or eager, the default"), ({"attn_implementation": "eager"}, "eager")],
)
def test_models_that_need_flash_attention_say_so(tmp_path: Path, more: dict[str, str], named: str) -> None:
    shape = {"model_type": "gpt_oss"}
    assert problems(tmp_path, {"packing": True, **more}, shape) == [
        Problem(
            f"gpt_oss models keep packed samples apart with FlashAttention only, not with {named}",
            "packing",
            "set attn_implementation: a FlashAttention that the model supports, or packing: false",
        )
    ]
    flash = {"packing": True, "attn_implementation": "kernels-community/vllm-flash-attn3"}
    assert problems(tmp_path, flash, shape) == []


def test_hybrids_need_their_kernel_and_those_of_attention_alone_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hybrid = {"model_type": "qwen3_5", "text_config": {"model_type": "qwen3_5_text"}}
    what = "qwen3_5_text models keep packed samples apart on GPUs only, with the package causal-conv1d"
    install = "set packing: false, or pip install causal-conv1d flash-linear-attention"
    assert problems(tmp_path, {"packing": True}, hybrid) == [Problem(what, "packing", install)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert problems(tmp_path, {"packing": True}, hybrid) == []
    assert problems(tmp_path, {"packing": True}, hybrid, "cpu") == [
        Problem(what, "packing", "set packing: false")
    ]
    attention_alone = {"model_type": "lfm2", "layer_types": ["full_attention"] * 2}
    assert problems(tmp_path, {"packing": True}, attention_alone, "cpu") == []


@pytest.mark.parametrize("name", ["paged|eager", "paged|flash_attention_2", "kernels-community/mine", "mine"])
def test_attentions_without_bounds_of_samples_are_refused(tmp_path: Path, name: str) -> None:
    assert problems(tmp_path, {"packing": True, "attn_implementation": name}) == [
        Problem(
            f"{name} attention is given no bounds of packed samples",
            "attn_implementation",
            "set attn_implementation: sdpa, or packing: false",
        )
    ]
    assert problems(tmp_path, {"attn_implementation": name}) == []


@pytest.mark.parametrize(
    ("key", "what"), [("cp_size", "context parallelism"), ("sp_size", "sequence parallelism")]
)
def test_sequences_cut_over_processes_are_refused(tmp_path: Path, key: str, what: str) -> None:
    assert problems(tmp_path, {"packing": True, "parallelism_config": {key: 2}}) == [
        Problem(
            f"{what} ({key} 2) does not keep packed samples apart",
            "parallelism_config",
            f"remove {key}, or set packing: false",
        )
    ]
    assert problems(tmp_path, {"packing": True, "parallelism_config": {key: 1}}) == []


def test_packed_test_rows_of_a_padded_training_are_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, {"eval_packing": True}) == [
        Problem(
            "eval_packing without packing lets the samples of a packed test row see one another",
            "eval_packing",
            "remove it, or set packing: true",
        )
    ]
    assert problems(tmp_path, {"eval_packing": True, "packing": True}) == []


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen3", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("name", [None, "eager", "sdpa", "flex_attention", "flash_attention_3"])
def test_what_was_seen_to_keep_samples_apart_is_let_through(
    tmp_path: Path, model_type: str, name: str | None
) -> None:
    settings = {"packing": True} if name is None else {"packing": True, "attn_implementation": name}
    assert problems(tmp_path, settings, {"model_type": model_type}) == []


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_broken_configuration_is_left_to_the_loading_of_the_model(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert problems(tmp_path, {"packing": True}) == []
