"""A cut of a real architecture is a model: transformers loads it with no tensor left over or lacking, and it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.check.deep.built import is_no_model
from sft.check.deep.cut import LARGE_BYTES, plan_cut, write_description, write_weights

PLAIN = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {**PLAIN, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SHARED = {**MOE, "num_experts": 16, "shared_expert_intermediate_size": 40}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "llama": ({**PLAIN, "num_hidden_layers": 4}, "1 of 4 layers (0)"),
    "qwen3": ({**PLAIN, "num_hidden_layers": 4}, "1 of 4 layers (0)"),
    "phi3": ({**PLAIN, "num_hidden_layers": 4}, "1 of 4 layers (0)"),
    "gpt2": ({"vocab_size": 64, "n_embd": 32, "n_layer": 4, "n_head": 4}, "1 of 4 layers (0)"),
    "gemma3_text": ({**PLAIN, "num_hidden_layers": 12, "sliding_window": 8}, "2 of 12 layers (0, 5)"),
    "smollm3": ({**PLAIN, "num_hidden_layers": 8}, "4 of 8 layers (0, 1, 2, 3)"),
    "lfm2": (
        {**PLAIN, "num_hidden_layers": 6, "layer_types": ["conv", "conv", "full_attention"] * 2},
        "2 of 6 layers (0, 2)",
    ),
    "mixtral": ({**PLAIN, "num_hidden_layers": 3, "num_local_experts": 16}, "1 of 3 layers (0)"),
    "gpt_oss": ({**MOE, "num_hidden_layers": 4, "num_local_experts": 16}, "2 of 4 layers (0, 1)"),
    "qwen3_moe": (
        {**MOE, "num_hidden_layers": 4, "num_experts": 16, "mlp_only_layers": [0, 1]},
        "2 of 4 layers (0, 2)",
    ),
    "qwen2_moe": ({**SHARED, "num_hidden_layers": 6, "decoder_sparse_step": 2}, "2 of 6 layers (0, 1)"),
    "deepseek_v3": (
        {
            **MOE,
            **LATENT,
            "num_hidden_layers": 5,
            "first_k_dense_replace": 3,
            "n_routed_experts": 16,
            "n_group": 4,
        },
        "2 of 5 layers (0, 3)",
    ),
    "ernie4_5_moe": (
        {**MOE, "num_hidden_layers": 4, "moe_num_experts": 16, "moe_k": 2, "moe_layer_start_index": 1},
        "2 of 4 layers (0, 1)",
    ),
}


def save(family: str, settings: dict[str, Any], directory: Path) -> Path:
    """Save a small model of a family with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("large_bytes", [LARGE_BYTES, 0], ids=["all experts", "some experts"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_loads_and_trains(family: str, large_bytes: int, tmp_path: Path) -> None:
    settings, told = FAMILIES[family]
    has_experts = any("experts" in key and key != "num_experts_per_tok" for key in settings)
    if large_bytes == 0 and not has_experts:
        pytest.skip("it has no experts")
    import torch
    from transformers import AutoModelForCausalLM

    cut = plan_cut(save(family, settings, tmp_path / "model"), large_bytes=large_bytes)
    write_description(cut, tmp_path / "cut")
    write_weights(cut, tmp_path / "cut")
    assert cut.told() == (told if large_bytes else told.replace(")", ", 8 experts each)"))
    model, found = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", output_loading_info=True)
    assert {name: keys for name, keys in found.items() if keys} == {}
    tokens = torch.arange(3, 11)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    weight = next(iter(model.get_input_embeddings().parameters()))
    assert torch.isfinite(weight.grad).all()


@pytest.mark.slow
def test_a_cut_that_is_no_model_is_found_out(tmp_path: Path) -> None:
    """Gemma 3n holds embeddings of all layers in one tensor, which no cut makes smaller."""
    all_layers = {
        "num_hidden_layers": 10,
        "num_kv_shared_layers": 4,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 64,
        "altup_num_inputs": 2,
        "laurel_rank": 4,
        "intermediate_size": [48] * 10,
        "activation_sparsity_pattern": [0.0] * 10,
    }
    cut = plan_cut(save("gemma3n_text", {**PLAIN, **all_layers}, tmp_path / "model"))
    write_description(cut, tmp_path / "cut")
    write_weights(cut, tmp_path / "cut")
    assert is_no_model(cut.source, tmp_path / "cut", trust_remote_code=False)
    assert not is_no_model(cut.source, cut.source, trust_remote_code=False)
