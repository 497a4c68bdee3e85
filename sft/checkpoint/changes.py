"""What a run file may not change between a checkpoint and its continuation: whatever changes a later loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sft.config.run import FLAT_SECTIONS, RunConfig

HARMLESS = frozenset({
    # where things go and what is told
    "output_dir", "run_name", "project", "report_to", "disable_tqdm", "log_level", "log_level_replica",
    "log_on_each_node", "logging_strategy", "logging_first_step", "logging_steps",
    "logging_nan_inf_filter", "include_num_input_tokens_seen", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "skip_memory_metrics", "env", "push_to_hub", "hub_model_id", "hub_strategy", "hub_token",
    "hub_private_repo", "hub_always_push", "hub_revision", "merge", "data_cache", "callbacks", "compute_metrics",
    "eval_metrics",
    # when to save and to evaluate, and what becomes of that
    "save_strategy", "save_steps", "save_total_limit", "save_only_model", "save_on_each_node", "background_save",
    "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_accumulation_steps", "eval_packing",
    "eval_do_concat_batches", "per_device_eval_batch_size", "prediction_loss_only", "batch_eval_metrics",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "early_stopping_patience",
    "early_stopping_threshold", "include_for_metrics", "do_eval", "do_predict", "do_train",
    # how the data reaches the loop
    "dataset_num_proc", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "bad_rows", "max_cut_answers", "strict_data",
    # the resume itself, and how ranks meet
    "resume_from_checkpoint", "resume_without", "ignore_data_skip", "restore_callback_states_from_checkpoint",
    "ddp_timeout", "ddp_backend",
    # held together by rows_per_step
    "per_device_train_batch_size", "gradient_accumulation_steps", "total_train_batch_size",
})  # fmt: skip
"""Keys that change no later loss."""

DATA = frozenset({
    "dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "dataset_mapping",
    "dataset_mixture", "datasets", "dataset_text_field", "validation_fraction", "test_split_size",
    "chat_template", "chat_template_path", "tokenizer_backend", "formatting_func", "special_tokens_in_content",
})  # fmt: skip
"""Keys that the fingerprint of the prepared data stands for, where there is one."""


def exact_settings(config: RunConfig) -> dict[str, Any]:
    """Return every key that a later loss depends on, defaults included, as it was resolved."""
    flat: dict[str, Any] = {}
    for section in FLAT_SECTIONS:
        flat.update(getattr(config, section).model_dump(mode="json"))
    return {key: value for key, value in sorted(flat.items()) if key not in HARMLESS}


def changes(before: Mapping[str, Any], now: Mapping[str, Any], *, same_data: bool | None) -> list[str]:
    """Say field by field what changed.

    Args:
        same_data: whether the prepared data is the same; None where there is no telling, so that its keys are
            compared instead.
    """
    told = [] if same_data is not False else ["the prepared data: other rows, tokens or order"]
    for key in sorted({*before, *now}):
        if key in DATA and same_data is not None:
            continue
        if before.get(key) != now.get(key):
            told.append(f"{key}: {_spelled(before.get(key))} -> {_spelled(now.get(key))}")
    return told


def _spelled(value: Any) -> str:
    return "unset" if value is None else str(value)
