"""What is checked and cast in a model that PEFT has wrapped, without training it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sft.errors import UserError
from sft.training.adapter import (
    check_saved_modules,
    check_targets,
    linear_leaves_of,
    no_target,
    upcast_frozen,
)


def wrapped(path: Path, dtype: torch.dtype = torch.float32, **values: object) -> torch.nn.Module:
    base = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **values))  # type: ignore[arg-type]


def test_targets_that_are_all_there_pass(tiny_model: Path) -> None:
    model = wrapped(tiny_model, target_modules=["q_proj", "mlp.up_proj"])
    check_targets(model, ["q_proj", "mlp.up_proj"])
    for not_a_list_of_names in (None, "all-linear", r".*q_proj", ["all-linear"]):
        check_targets(model, not_a_list_of_names)


def test_every_name_that_is_missing_is_named(tiny_model: Path) -> None:
    model = wrapped(tiny_model, target_modules=["q_proj", "proj", "query"])
    with pytest.raises(UserError) as caught:
        check_targets(model, ["q_proj", "proj", "query"])
    assert str(caught.value) == (
        "lora_target_modules: proj, query matches no module of the model\n"
        "  where: lora_target_modules\n"
        "  fix:   the model's linear layers are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj;"
        " or use all-linear"
    )


def test_linear_layers_are_named_without_reading_a_weight(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    leaves = linear_leaves_of(str(tmp_path), revision=None, trust_remote_code=False)
    assert leaves == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_model_whose_code_is_not_known_has_no_names_to_offer(tiny_model: Path, tmp_path: Path) -> None:
    text = (tiny_model / "config.json").read_text().replace("LlamaForCausalLM", "MyOwnForCausalLM")
    (tmp_path / "config.json").write_text(text)
    assert linear_leaves_of(str(tmp_path), revision=None, trust_remote_code=False) == []
    assert no_target("x", []).problems[0].fix == "use all-linear"


def test_saved_modules_that_are_there_pass(tiny_model: Path) -> None:
    model = wrapped(tiny_model, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    check_saved_modules(model, ["embed_tokens"])
    check_saved_modules(model, None)


def test_upcast_leaves_the_adapter_alone_and_says_what_it_costs(tiny_model: Path) -> None:
    model = wrapped(tiny_model, torch.bfloat16, target_modules=["q_proj"])
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    for parameter in model.parameters():
        if parameter.requires_grad:  # as TRL keeps the adapter of a quantised base
            parameter.data = parameter.data.to(torch.bfloat16)
    assert upcast_frozen(model) == 2 * frozen
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.bfloat16}
    assert upcast_frozen(model) == 0, "what is float32 already costs nothing"
