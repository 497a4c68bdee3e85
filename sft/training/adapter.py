"""What the kit checks and casts in a model that PEFT has wrapped."""

from __future__ import annotations

import torch
from torch import nn

from sft.errors import UserError


def check_targets(model: nn.Module, targets: list[str] | str | None) -> None:
    """Refuse a LoRA target that matches nothing: PEFT only refuses when none of them does.

    Raises:
        UserError: a name in the list is the name of no module.
    """
    if not isinstance(targets, list):
        return
    adapted: list[str] = getattr(getattr(model, "base_model", model), "targeted_module_names", [])
    missing = [
        name
        for name in targets
        if not any(module == name or module.endswith(f".{name}") for module in adapted)
    ]
    if missing:
        leaves = sorted({module.rsplit(".", 1)[-1] for module in _linear_names(model)})
        raise UserError(
            f"lora_target_modules: {', '.join(missing)} matches no module of the model",
            where="lora_target_modules",
            fix=f"the model's linear layers are {', '.join(leaves)}; or use all-linear",
        )


def _linear_names(model: nn.Module) -> list[str]:
    names = []
    for name, module in model.named_modules():
        plain = name.replace(".base_layer", "")
        if isinstance(module, nn.Linear) and ".lora_" not in name:
            names.append(plain)
    return names


def upcast_frozen(model: nn.Module) -> int:
    """Cast norms, embeddings and head of a quantised base to float32; return the bytes that this costs.

    Source:
        prepare_model_for_kbit_training of peft/utils/other.py; freezing and input gradients are done by
        PEFT and TRL already.
    """
    before = after = 0
    for parameter in model.parameters():
        half = parameter.dtype in (torch.float16, torch.bfloat16)
        if parameter.requires_grad or not half or type(parameter).__name__ in ("Params4bit", "Int8Params"):
            continue
        before += parameter.numel() * parameter.element_size()
        parameter.data = parameter.data.to(torch.float32)
        after += parameter.numel() * parameter.element_size()
    return after - before
