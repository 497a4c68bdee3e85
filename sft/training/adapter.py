"""What the kit checks and casts in a model that PEFT has wrapped."""

from __future__ import annotations

import torch
import transformers
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import AutoConfig

from sft.errors import UserError


def check_targets(model: nn.Module, targets: list[str] | str | None) -> None:
    """Refuse a name of the list that matches nothing: PEFT only refuses when none of them does.

    Raises:
        UserError: a name in the list is the name of no module.
    """
    if not isinstance(targets, list) or len(targets) == 1:  # a list of one may hold a pattern or all-linear
        return
    base = getattr(model, "base_model", model)
    adapted: list[str] = getattr(base, "targeted_module_names", [])
    if getattr(base, "targeted_parameter_names", []):
        return  # PEFT has put the parameters that hold all experts in the place of the names of one expert's modules
    missing = [
        name
        for name in targets
        if not any(module == name or module.endswith(f".{name}") for module in adapted)
    ]
    if missing:
        raise no_target(", ".join(missing), _linear_leaves(model))


def check_saved_modules(model: nn.Module, names: list[str] | None) -> None:
    """Refuse a module that should be trained whole beside the adapter and is not there: PEFT passes over it.

    Raises:
        UserError: a name of lora_modules_to_save is the name of no module.
    """
    saved = [name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    missing = [name for name in names or () if not any(module.endswith(name) for module in saved)]
    if missing:
        raise UserError(
            f"lora_modules_to_save: {', '.join(missing)} matches no module of the model",
            where="lora_modules_to_save",
            fix="the usual ones are embed_tokens and lm_head; print(model) shows the names",
        )


def no_target(asked: str, leaves: list[str]) -> UserError:
    """Say that a LoRA target matches nothing, and what there is."""
    there = f"the model's linear layers are {', '.join(leaves)}; or " if leaves else ""
    return UserError(
        f"lora_target_modules: {asked} matches no module of the model",
        where="lora_target_modules",
        fix=f"{there}use all-linear",
    )


def linear_leaves_of(model_name_or_path: str, *, revision: str | None, trust_remote_code: bool) -> list[str]:
    """Name the linear layers of a model without its weights; none where its code is not transformers' own."""
    config = AutoConfig.from_pretrained(
        model_name_or_path, revision=revision, trust_remote_code=trust_remote_code
    )
    architecture = getattr(transformers, (config.architectures or [""])[0], None)
    if architecture is None:
        return []
    with torch.device("meta"):
        return _linear_leaves(architecture(config))


def _linear_leaves(model: nn.Module) -> list[str]:
    paths = (
        name.removesuffix(".base_layer")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    )
    # TRL reads lm_head.weight itself, so an adapter there is refused.
    return sorted({path.rsplit(".", 1)[-1] for path in paths} - {"lm_head"})


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
