"""QLoRA and 8-bit: what is loaded, what it weighs, what is cast, and that it trains."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.training.conftest import Train

# The tiny model: 2 layers of q 64x64, k and v 32x64, o 64x64, gate, up and down 128x64; embeddings tied to the head.
QUANTISED = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
KEPT = 512 * 64 + 5 * 64
"""Embeddings and the five norms, which bitsandbytes leaves alone."""
QLORA: dict[str, Any] = {
    "use_peft": True,
    "load_in_4bit": True,
    "lora_target_modules": ["q_proj", "v_proj"],
    "lora_r": 4,
    "learning_rate": 1e-2,
}
ADAPTER = 2 * 4 * ((64 + 64) + (64 + 32))


def of_4bit(trained: Any) -> list[Any]:
    return [module.weight for module in trained.trainer.model.modules() if isinstance(module, Linear4bit)]


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bit_kinds(train: Train, kind: str) -> None:
    trained = train(**QLORA, bnb_4bit_quant_type=kind)
    assert {weight.quant_state.quant_type for weight in of_4bit(trained)} == {kind}
    assert len(of_4bit(trained)) == 14
    assert trained.losses[-1] < trained.losses[0] - 0.02
    summary = trained.summary
    assert summary["parameters"] == QUANTISED + KEPT + ADAPTER
    assert summary["trainable"] == ADAPTER
    assert summary["trainable_percent"] == round(100 * ADAPTER / (QUANTISED + KEPT + ADAPTER), 4)
    assert summary["quantized"] == f"4-bit {kind} {QUANTISED:,}"
    # TRL keeps the adapter of a quantised base in bfloat16, as QLoRA's authors did.
    assert summary["dtypes"] == f"float32 {KEPT:,}, bfloat16 {ADAPTER:,}"
    scales = QUANTISED // 64 * 4 + 14 * 16 * 4  # a float32 for each block of 64, and the code of each layer
    assert summary["weight_bytes"] == QUANTISED // 2 + scales + KEPT * 4 + ADAPTER * 2


def test_fp4_and_nf4_are_different_models(train: Train) -> None:
    assert train(**QLORA, max_steps=1).losses != train(**QLORA, max_steps=1, bnb_4bit_quant_type="fp4").losses


def test_double_quantisation_makes_the_scales_smaller(train: Train) -> None:
    plain, nested = train(**QLORA), train(**QLORA, use_bnb_nested_quant=True)
    assert all(weight.quant_state.nested for weight in of_4bit(nested))
    assert not any(weight.quant_state.nested for weight in of_4bit(plain))
    assert nested.losses == pytest.approx(plain.losses, abs=0.02)
    independent = 0
    for weight in of_4bit(nested):
        state = weight.quant_state
        assert state.absmax.dtype == torch.uint8
        independent += state.absmax.numel() + state.code.nbytes + state.offset.nbytes
        independent += state.state2.absmax.nbytes + state.state2.code.nbytes
    assert nested.summary["weight_bytes"] == QUANTISED // 2 + independent + KEPT * 4 + ADAPTER * 2


@pytest.mark.parametrize("storage", ["uint8", "bfloat16", "float32"])
def test_storage_dtype_is_how_the_bits_are_kept_and_changes_nothing_else(train: Train, storage: str) -> None:
    trained = train(**QLORA, bnb_4bit_quant_storage=storage, max_steps=1)
    assert {weight.dtype for weight in of_4bit(trained)} == {getattr(torch, storage)}
    assert trained.summary["parameters"] == QUANTISED + KEPT + ADAPTER
    assert trained.summary["weight_bytes"] == train(**QLORA, max_steps=1).summary["weight_bytes"]


def test_eight_bit(train: Train) -> None:
    trained = train(**{**QLORA, "load_in_4bit": False, "load_in_8bit": True})
    summary = trained.summary
    assert summary["quantized"] == f"8-bit {QUANTISED:,}"
    assert summary["parameters"] == QUANTISED + KEPT + ADAPTER
    rows = 2 * (2 * 64 + 2 * 32 + 2 * 128 + 64)  # one float32 scale for each output
    assert summary["weight_bytes"] == QUANTISED + rows * 4 + KEPT * 4 + ADAPTER * 2
    assert trained.losses[-1] < trained.losses[0] - 0.02


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_norms_embeddings_and_head_are_cast_as_peft_casts_them(
    train: Train, settings: dict[str, Any], bits: str
) -> None:
    import peft

    more = {**QLORA, "load_in_4bit": False, f"load_in_{bits}": True, "dtype": "bfloat16", "bf16": True}
    plain, cast = train(**more), train(**more, prepare_model_for_kbit_training=True)
    base = AutoModelForCausalLM.from_pretrained(
        settings["model_name_or_path"],
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(**{f"load_in_{bits}": True}),
    )
    prepared = peft.prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    wanted = {name: parameter.dtype for name, parameter in prepared.named_parameters()}
    found = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter.dtype
        for name, parameter in cast.trainer.model.named_parameters()
        if "lora_" not in name
    }
    assert found == wanted
    assert Counter(wanted.values())[torch.float32] == 6
    assert cast.summary["dtypes"] == f"float32 {KEPT:,}, bfloat16 {ADAPTER:,}"
    assert plain.summary["dtypes"] == f"bfloat16 {KEPT + ADAPTER:,}"
    assert cast.losses[-1] < cast.losses[0] - 0.02
    assert cast.losses == pytest.approx(plain.losses, abs=0.02)


def test_dora_on_four_bits_keeps_its_magnitudes_in_float32(train: Train) -> None:
    trained = train(**QLORA, use_dora=True)
    assert trained.summary["trainable"] == ADAPTER + 2 * (64 + 32)
    assert trained.summary["dtypes"] == f"float32 {KEPT + 2 * (64 + 32):,}, bfloat16 {ADAPTER:,}"
    assert trained.losses[-1] < trained.losses[0] - 0.02
