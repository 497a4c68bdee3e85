"""Optimizers beside strategies and adapters."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.run import RunConfig
from sft.errors import Problem
from sft.plan.memory.optimizers import is_bitsandbytes, is_low_rank
from sft.plan.plan import Plan

IGNORES_OPTIM_ARGS = ("adamw_torch", "adamw_torch_fused")


def low_rank_targets(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """transformers: "You need to define `optim_target_modules`", once the model is loaded; elsewhere it is ignored."""
    training = config.training
    if is_low_rank(training.optim) and not training.optim_target_modules:
        yield Problem(
            f"{training.optim} needs optim_target_modules", "optim", "set optim_target_modules: all-linear"
        )
    if training.optim_target_modules and not is_low_rank(training.optim):
        yield Problem(
            f"optim_target_modules has no effect on {training.optim}",
            "optim_target_modules",
            "remove it, or set optim: galore_adamw",
        )


def ignored_optimizer_arguments(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """optim_args "rankk=3" with adamw_torch trained as without it."""
    if config.training.optim_args and config.training.optim in IGNORES_OPTIM_ARGS:
        yield Problem(
            f"optim_args has no effect on {config.training.optim}",
            "optim_args",
            "remove it; adam_beta1, adam_beta2, adam_epsilon and weight_decay are keys of their own",
        )


def low_rank_under_deepspeed(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """ZeRO hands the optimizer flat slices: "IndexError: tuple index out of range" in GaLore and in APOLLO."""
    if is_low_rank(config.training.optim) and plan.strategy.is_deepspeed:
        yield Problem(
            f"{config.training.optim} projects matrices, and {plan.strategy} gives the optimizer flat slices of them",
            "optim",
            "set launch.strategy: ddp; or fsdp2 with optim: galore_adamw",
        )


def low_rank_under_fsdp(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """apollo: KeyError 'seed'; galore_adafactor and 8-bit: "mixed torch.Tensor and DTensor". galore_adamw is exact."""
    optim = config.training.optim
    if is_low_rank(optim) and plan.strategy.is_fsdp and optim != "galore_adamw" and "layerwise" not in optim:
        yield Problem(
            f"{optim} cannot work on tensors that {plan.strategy} shards", "optim", "set optim: galore_adamw"
        )


def layerwise_optimizers(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """transformers refuses both, once the model is loaded."""
    optim = config.training.optim
    if "layerwise" not in optim:
        return
    whole = optim.removesuffix("_layerwise")
    if plan.processes > 1:
        yield Problem(f"{optim} works in one process, not {plan.processes}", "optim", f"set optim: {whole}")
    if plan.accumulation > 1:
        yield Problem(
            f"{optim} updates in the backward pass, so gradients cannot accumulate over {plan.accumulation} steps",
            "optim",
            f"set optim: {whole}, or gradient_accumulation_steps: 1",
        )


def low_rank_on_adapter(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """It projects LoRA's own small matrices: 6.109 after five steps, AdamW on the same adapter 6.026."""
    if is_low_rank(config.training.optim) and config.model.use_peft:
        yield Problem(
            f"{config.training.optim} is for training every weight: on an adapter it projects matrices that are"
            " of low rank already",
            "optim",
            "remove optim, or set use_peft: false",
        )


def optimizers_under_fsdp(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """bitsandbytes: "does not have a sharding strategy registered"; Adafactor: "mixed torch.Tensor and DTensor"."""
    optim = config.training.optim
    if plan.strategy.is_fsdp and (is_bitsandbytes(optim) or optim == "adafactor"):
        yield Problem(
            f"{optim} cannot work on tensors that {plan.strategy} shards",
            "optim",
            "set optim: adamw_torch, or launch.strategy: ddp"
            if optim == "adafactor"
            else "set optim: adamw_torch, or launch.strategy: zero3",
        )


def adafactor_under_deepspeed(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """On flat slices nothing is factored: a full second moment, and 5.52 instead of 6.01 at step 3, in silence."""
    if config.training.optim == "adafactor" and plan.strategy.is_deepspeed:
        yield Problem(
            f"adafactor has nothing to factor under {plan.strategy}, which gives it flat slices: it would be another"
            " optimizer, with the memory of a full second moment",
            "optim",
            "set optim: adamw_8bit, or launch.strategy: ddp",
        )


RULES = (
    low_rank_targets,
    ignored_optimizer_arguments,
    low_rank_under_deepspeed,
    low_rank_under_fsdp,
    layerwise_optimizers,
    low_rank_on_adapter,
    optimizers_under_fsdp,
    adafactor_under_deepspeed,
)
