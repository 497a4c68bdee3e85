"""The shape of a decoder, from its configuration and from the headers of its weights, whatever its family calls its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.plan.model_shape import read_model_shape
from sft.plan.read_shape import read_shape, unpacked, why_unknown
from sft.plan.usual_layout import usual_layout
from sft.plan.weights import Tensor, read_tensors
from tests.plan import memory_cases

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
MIXTRAL: dict[str, Any] = {
    **LLAMA_8B,
    "model_type": "mixtral",
    "vocab_size": 32000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def test_a_configuration_alone_gives_the_numbers_that_are_published() -> None:
    shape = read_shape(LLAMA_8B, None)
    assert shape is not None
    assert shape.numbers == 8_030_261_248
    assert shape.stored_bytes == 2 * shape.numbers
    assert shape.assumed == ("the weights' names and shapes, as Llama's are",)


def test_experts_are_counted_and_known_to_be_chosen_from() -> None:
    shape = read_shape(MIXTRAL, None)
    assert shape is not None
    assert shape.numbers == 46_702_792_704
    experts = shape.layers[0].experts
    assert experts is not None
    assert (experts.count, experts.chosen) == (8, 2)


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_without_a_size_there_is_no_shape(missing: str) -> None:
    assert read_shape({key: value for key, value in LLAMA_8B.items() if key != missing}, None) is None


def test_packed_numbers_are_counted_as_they_are_loaded() -> None:
    """GPT-OSS is published in MXFP4: two numbers a byte, a scale a group of 32; it is trained in bfloat16."""
    packed = [
        Tensor("model.layers.0.mlp.experts.gate_up_proj_blocks", (32, 5760, 90, 16), "U8"),
        Tensor("model.layers.0.mlp.experts.gate_up_proj_scales", (32, 5760, 90), "U8"),
        Tensor("model.layers.0.mlp.experts.gate_up_proj_bias", (32, 5760), "BF16"),
    ]
    assert [*unpacked(packed)] == [
        Tensor("model.layers.0.mlp.experts.gate_up_proj", (32, 5760, 2880), "BF16"),
        packed[2],
    ]


def test_latent_attention_is_no_shape_and_is_told() -> None:
    config = {**LLAMA_8B, "model_type": "deepseek_v2", "num_hidden_layers": 1}
    usual = [*usual_layout(config, {"hidden": 4096, "heads": 32, "layers": 1, "experts": None, "intermediate": 8192, "vocabulary": 100}, 8, 128)]  # fmt: skip
    assert read_shape(config, usual) is not None
    latent = Tensor("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", (576, 4096), "BF16")
    assert read_shape(config, [*usual, latent]) is None
    assert why_unknown(config) == (
        "layers of the type deepseek_v2 are not the attention and feed-forward network that the plan can count"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"num_hidden_layers": 10**9}, "its config.json names more than 10,000 layers"),
        ({"hidden_size": "64"}, "its config.json, of the type llama, has no number for hidden_size"),
        ({"vocab_size": float("nan")}, "its config.json, of the type llama, has no number for vocab_size"),
    ],
)
def test_numbers_that_are_none_are_told_and_not_laid_out(change: dict[str, Any], why: str) -> None:
    config = {**LLAMA_8B, **change}
    assert read_shape(config, None) is None
    assert why_unknown(config) == why


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_weights_that_are_packed_already_are_no_shape_and_are_told(method: str) -> None:
    config = {**LLAMA_8B, "quantization_config": {"quant_method": method, "bits": 4}}
    assert read_shape(config, None) is None
    assert why_unknown(config) == (
        f"its weights are packed by {method}, and their shapes are not those of the matrices"
    )
    assert read_shape({**LLAMA_8B, "quantization_config": {"quant_method": "mxfp4"}}, None) is not None


@pytest.mark.parametrize("share", [float("nan"), float("inf"), -1, "half"])
def test_a_share_that_is_none_turns_whole_heads(share: object) -> None:
    shape = read_shape({**LLAMA_8B, "partial_rotary_factor": share}, None)
    assert shape is not None
    assert shape.turned == 128


@pytest.mark.parametrize("family", memory_cases.SHAPES)
def test_headers_of_many_families_are_read_to_the_last_number(
    family: str, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    directory = memory_cases.write_model(family, tmp_path / family, tiny_model)
    shape = read_shape(read_model_shape(str(directory)), read_tensors(directory))
    assert shape is not None
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert shape.numbers == sum(parameter.numel() for parameter in model.parameters())
    assert shape.tied == bool(json.loads((directory / "config.json").read_text())["tie_word_embeddings"])
    for layer in shape.layers:
        assert layer.is_known
        assert (layer.experts is not None) == (family in memory_cases.EXPERTS)
        assert layer.gated == (family not in ("gpt2", "gpt-neox", *memory_cases.EXPERTS))
