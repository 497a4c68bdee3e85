"""The shape of a decoder, from its configuration and from the headers of its weights, whatever its family calls its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.plan.model_shape import read_model_shape
from sft.plan.shape import read_shape
from sft.plan.weights import read_tensors
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
