"""A run file's settings as the objects that TRL takes: the same key, the same meaning, the same default."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import trl

from sft.config.run import RunConfig
from sft.training.agreement import World

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig

OURS = ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision")
"""The kit pushes by itself: transformers' own push swallows failures, and hangs the ranks at start."""


def training_arguments(
    config: RunConfig, world: World, other_reports: tuple[str, ...], *, prepared: bool = False
) -> trl.SFTConfig:
    """Build TRL's SFTConfig from what the run file sets; what it leaves out keeps TRL's default.

    Args:
        prepared: rows come tokenized, truncated and packed, their masks in the labels: TRL must do none of it again.
        other_reports: integrations of transformers that the kit has no view of its own for.
    """
    values: dict[str, Any] = config.training.model_dump(exclude_unset=True, exclude=set(OURS))
    values |= {
        "output_dir": str(config.run.output_dir),
        "per_device_train_batch_size": world.batch.micro_batch,
        "gradient_accumulation_steps": world.batch.accumulation,
        "report_to": list(other_reports) or "none",
        "disable_tqdm": True,
        "model_init_kwargs": {
            "revision": config.model.model_revision,
            "trust_remote_code": config.training.trust_remote_code,
            "attn_implementation": config.model.attn_implementation,
            "dtype": config.model.dtype,
            **_mapping(config.training.model_init_kwargs),
        },
    }
    if prepared:
        values["dataset_kwargs"] = {**_mapping(config.training.dataset_kwargs), "skip_prepare_dataset": True}
        values["assistant_only_loss"] = False
        if config.training.padding_free and not config.training.packing:
            values["max_length"] = None
    if world.device == "cpu" and "use_cpu" not in values:
        values["use_cpu"] = not _device_is_forced()
    if os.environ.get("SFT_SUPERVISED") == "1":
        # The supervisor knows which phase has which limit and says who is where; a collective's own, one for all, is
        # for the rank that outlives it.
        values.setdefault("ddp_timeout", math.ceil(config.launch.limits.longest_seconds) + 60)
    # The kit's saver keeps and deletes checkpoints; transformers would delete before the new one is complete.
    values.pop("save_total_limit", None)
    values.pop("resume_from_checkpoint", None)
    values.setdefault("restore_callback_states_from_checkpoint", True)
    return trl.SFTConfig(**values)


def _device_is_forced() -> bool:
    """Whether accelerate was told its device by its own variable, which `use_cpu` would contradict."""
    return "ACCELERATE_TORCH_DEVICE" in os.environ


def _mapping(value: dict[str, Any] | str | None) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def model_arguments(config: RunConfig) -> trl.ModelConfig:
    """Build TRL's ModelConfig."""
    return trl.ModelConfig(**config.model.model_dump(exclude_unset=True))


def peft_config(config: RunConfig) -> PeftConfig | None:
    """Build the LoRA configuration, or None for full fine-tuning."""
    found: PeftConfig | None = trl.get_peft_config(model_arguments(config))
    targets = config.model.lora_target_modules
    if found is not None and isinstance(targets, list) and len(targets) == 1 and _is_name(targets[0]):
        # TRL makes a pattern of a list's only member; a plain name would have to be a module's whole path then.
        found.target_modules = set(targets)
    return found


def _is_name(target: str) -> bool:
    return all(part.isidentifier() for part in target.split("."))


def quantization_config(config: RunConfig) -> BitsAndBytesConfig | None:
    """Build the 4-bit or 8-bit configuration, or None."""
    return trl.get_quantization_config(model_arguments(config))
