"""Batches, packing, checkpoints, and what needs a GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sft.config.run import RunConfig
from sft.errors import Problem
from sft.plan.plan import Plan


def _mapping(value: dict[str, Any] | str | None) -> dict[str, Any]:
    """Return a setting that transformers takes as a mapping or as JSON text; anything else is for it to refuse."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return {}
    return value if isinstance(value, dict) else {}


def reentrant_checkpointing(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """DDP: "Expected to mark a variable ready only once"; full fine-tuning, ZeRO-3 and FSDP2 train."""
    for key in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        reentrant = _mapping(getattr(config.training, key)).get("use_reentrant")
        if reentrant and config.model.use_peft and plan.strategy == "ddp":
            yield Problem(
                "reentrant gradient checkpointing of an adapter fails under ddp",
                key,
                f"set {key}: {{use_reentrant: false}}",
            )


def save_only_model_and_best(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """transformers: "DeepSpeed can't be used with `save_only_model` along with `load_best_model_at_end`", FSDP too."""
    training = config.training
    sharded = plan.strategy.is_deepspeed or plan.strategy.is_fsdp
    if training.save_only_model and training.load_best_model_at_end and sharded:
        yield Problem(
            f"{plan.strategy} cannot load the best model from checkpoints that hold the model only",
            "save_only_model",
            "set save_only_model: false",
        )


def automatic_batch_under_zero3(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """transformers: "`auto_find_batch_size` isn't supported yet with DeepSpeed Zero-3"."""
    if config.training.auto_find_batch_size and plan.strategy.zero_stage == 3:
        yield Problem(
            f"auto_find_batch_size does not work under {plan.strategy}",
            "auto_find_batch_size",
            "remove it and set per_device_train_batch_size",
        )


def split_batches(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """Two processes then trained on half as many rows a step, in silence."""
    if _mapping(config.training.accelerator_config).get("split_batches") and plan.processes > 1:
        yield Problem(
            f"split_batches would divide per_device_train_batch_size by {plan.processes} once more",
            "accelerator_config",
            "remove split_batches and set total_train_batch_size",
        )


def the_trainers_own_launcher_keys(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """Under ddp, `fsdp: full_shard` stayed DDP in silence, and `deepspeed:` made it DeepSpeed; in one process it did nothing."""
    for key in ("fsdp", "fsdp_config", "deepspeed"):
        if getattr(config.training, key):
            yield Problem(
                f"{key} would contradict the accelerate file or do nothing",
                key,
                "remove it and set launch.strategy, or launch.accelerate_config for a file of your own",
            )


def sample_mixing(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """`wrapped` gives no position ids: logits differ by 0.59 from those of the rows alone."""
    training = config.training
    if training.packing and training.packing_strategy == "wrapped" and not config.kit.allow_sample_mixing:
        yield Problem(
            "wrapped packing lets tokens attend to the sample before their own",
            "packing_strategy",
            "set packing_strategy: bfd, or allow_sample_mixing: true if that is meant",
        )


def packing_needs_a_length(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """TRL: "When packing is enabled, `max_length` can't be `None`", once the model is loaded."""
    training = config.training
    if (training.packing or training.eval_packing) and training.max_length is None:
        yield Problem(
            "packing needs max_length, the length of a packed row", "max_length", "set max_length: 1024"
        )


def padding_free_has_no_length(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """TRL: "When `padding_free=True` without packing, `max_length` is not enforced"."""
    training = config.training
    if training.padding_free and not training.packing and training.max_length is not None:
        yield Problem(
            f"padding_free without packing cannot enforce max_length {training.max_length}",
            "padding_free",
            "set packing: true, or max_length: null",
        )


def best_model_needs_matching_saves(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """transformers refuses the first two once torch is up; save_strategy best without evaluation never saves."""
    training = config.training
    if training.save_strategy == "best" and training.eval_strategy == "no":
        yield Problem(
            "save_strategy best without evaluation never saves", "save_strategy", "set eval_strategy: steps"
        )
    elif training.save_strategy == "best" and training.metric_for_best_model is None:
        yield Problem(
            "save_strategy best needs a metric", "save_strategy", "set metric_for_best_model: eval_loss"
        )
    elif training.load_best_model_at_end and training.save_strategy not in ("best", training.eval_strategy):
        yield Problem(
            f"load_best_model_at_end needs save_strategy {training.save_strategy} and eval_strategy"
            f" {training.eval_strategy} to be the same",
            "load_best_model_at_end",
            f"set eval_strategy: {training.save_strategy}"
            if training.save_strategy != "no"
            else f"set save_strategy: {training.eval_strategy}",
        )


def early_stopping_needs_a_metric(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """AssertionError: "EarlyStoppingCallback requires metric_for_best_model to be defined", at the first step."""
    training = config.training
    if config.kit.early_stopping_patience is None:
        return
    if training.eval_strategy == "no":
        yield Problem(
            "early stopping needs evaluations", "early_stopping_patience", "set eval_strategy: steps"
        )
    elif training.metric_for_best_model is None and not training.load_best_model_at_end:
        yield Problem(
            "early stopping needs to know what is better",
            "early_stopping_patience",
            "set metric_for_best_model: eval_loss",
        )


def needs_a_gpu(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """fp16 trained in float32 to the digit; the others end in a traceback, flex attention at its first backward."""
    if plan.device != "cpu":
        return
    training = config.training
    asked = {
        "fp16": (bool(training.fp16), "set bf16: true, or bf16: false for float32"),
        "tf32": (bool(training.tf32), "remove tf32"),
        "activation_offloading": (training.activation_offloading, "set activation_offloading: false"),
        "optim": (training.optim.startswith("galore_adamw_8bit"), "set optim: galore_adamw"),
        "attn_implementation": (
            config.model.attn_implementation == "flex_attention",
            "set attn_implementation: sdpa",
        ),
    }
    for key, (is_asked, fix) in asked.items():
        if is_asked:
            value = {"optim": training.optim, "attn_implementation": "flex_attention"}.get(key, key)
            yield Problem(f"{value} needs a GPU", key, fix)


def loader_settings_without_workers(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """torch: "persistent_workers option needs num_workers > 0", once the model is loaded."""
    training = config.training
    for key in ("dataloader_persistent_workers", "dataloader_prefetch_factor"):
        if getattr(training, key) and not training.dataloader_num_workers:
            yield Problem(f"{key} needs workers", key, "set dataloader_num_workers: 2, or remove it")


RULES = (
    reentrant_checkpointing,
    save_only_model_and_best,
    automatic_batch_under_zero3,
    split_batches,
    the_trainers_own_launcher_keys,
    sample_mixing,
    packing_needs_a_length,
    padding_free_has_no_length,
    best_model_needs_matching_saves,
    early_stopping_needs_a_metric,
    needs_a_gpu,
    loader_settings_without_workers,
)
