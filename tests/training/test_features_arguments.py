"""Every field of SFTConfig reaches TRL as the run file has it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import trl

from sft.config.retired import STILL_FIELDS
from sft.plan.batch import Batch
from sft.training.agreement import World
from sft.training.arguments import OURS, training_arguments
from tests.training.here import forget_accelerate, read_settings

HANDLED = {
    **dict.fromkeys(OURS, "the kit pushes by itself"),
    **dict.fromkeys(STILL_FIELDS, "refused by the run file: a secret, and a launcher's setting"),
    "output_dir": "made absolute",
    "report_to": "the kit's own views; the rest is left to transformers",
    "disable_tqdm": "the kit prints its own progress",
    "resume_from_checkpoint": "true and false are the kit's; a path is given to train() instead",
    "per_device_train_batch_size": "from the plan, which divides total_train_batch_size",
    "gradient_accumulation_steps": "from the plan",
    "model_init_kwargs": "merged with ModelConfig's, as TRL's own script does",
    "deepspeed": "a run file's deepspeed is launch.accelerate_config",
    "fsdp": "a run file's fsdp is launch.strategy",
    "local_rank": "the launcher's",
    "save_total_limit": "the kit's saver deletes, once the new checkpoint is complete",
}
"""Fields that the kit takes care of itself, and why."""

PROBES: dict[str, Any] = {
    "num_train_epochs": 2.5,
    "max_steps": 7,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr": 1e-6},
    "warmup_steps": 0.1,
    "optim": "adafactor",
    "optim_args": "rank=4",
    "weight_decay": 0.01,
    "adam_beta1": 0.8,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "optim_target_modules": ["q_proj"],
    "average_tokens_across_devices": False,
    "max_grad_norm": 0.5,
    "label_smoothing_factor": 0.1,
    "bf16": False,
    "fp16": True,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "tf32": False,
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "gradient_checkpointing": False,
    "gradient_checkpointing_kwargs": {"use_reentrant": True},
    "torch_compile": True,
    "torch_compile_backend": "eager",
    "torch_compile_mode": "reduce-overhead",
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": False},
    "use_cache": True,
    "neftune_noise_alpha": 5.0,
    "torch_empty_cache_steps": 3,
    "auto_find_batch_size": True,
    "logging_strategy": "epoch",
    "logging_steps": 3.0,
    "logging_first_step": True,
    "log_on_each_node": False,
    "logging_nan_inf_filter": False,
    "include_num_input_tokens_seen": "all",
    "log_level": "error",
    "log_level_replica": "error",
    "run_name": "010",
    "project": "mine",
    "trackio_space_id": "me/space",
    "trackio_bucket_id": "me/bucket",
    "trackio_static_space_id": "me/static",
    "eval_strategy": "steps",
    "eval_steps": 5.0,
    "eval_delay": 2.0,
    "per_device_eval_batch_size": 3,
    "prediction_loss_only": True,
    "eval_on_start": True,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["inputs"],
    "batch_eval_metrics": True,
    "save_only_model": True,
    "save_strategy": "epoch",
    "save_steps": 11.0,
    "save_on_each_node": True,
    "enable_jit_checkpoint": True,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
    "ignore_data_skip": True,
    "restore_callback_states_from_checkpoint": True,
    "full_determinism": True,
    "seed": 7,
    "data_seed": 9,
    "use_cpu": True,
    "accelerator_config": {"even_batches": False},
    "dataloader_drop_last": True,
    "dataloader_num_workers": 2,
    "dataloader_pin_memory": False,
    "dataloader_persistent_workers": True,
    "dataloader_prefetch_factor": 4,
    "dataloader_multiprocessing_context": "spawn",
    "dataloader_in_order": False,
    "remove_unused_columns": False,
    "label_names": ["labels"],
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "tokens",
    "ddp_find_unused_parameters": True,
    "ddp_bucket_cap_mb": 50,
    "ddp_broadcast_buffers": True,
    "ddp_static_graph": True,
    "ddp_backend": "gloo",
    "ddp_timeout": 600,
    "debug": "underflow_overflow",
    "skip_memory_metrics": False,
    "do_train": True,
    "do_eval": True,
    "do_predict": True,
    "trust_remote_code": True,
    "router_aux_loss_coef": 0.01,
    "chat_template_path": "/templates/chat.jinja",
    "dataset_text_field": "body",
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "dataset_num_proc": 2,
    "eos_token": "<|im_end|>",
    "max_length": 77,
    "truncation_mode": "keep_end",
    "shuffle_dataset": True,
    "packing": True,
    "packing_strategy": "wrapped",
    "padding_free": True,
    "pad_to_multiple_of": 8,
    "eval_packing": False,
    "completion_only_loss": False,
    "assistant_only_loss": True,
    "loss_type": "dft",
    "activation_offloading": True,
    "pad_token": "<|endoftext|>",
}
NEEDS = {
    "fp16": {"bf16": False},
    "bf16": {},
    "load_best_model_at_end": {"eval_strategy": "steps", "save_strategy": "steps"},
    "eval_strategy": {"eval_steps": 5},
    "fp16_full_eval": {"bf16": False},
    "torch_compile_backend": {"torch_compile": True},
    "torch_compile_mode": {"torch_compile": True},
    "dataloader_prefetch_factor": {"dataloader_num_workers": 2},
    "dataloader_persistent_workers": {"dataloader_num_workers": 2},
    "dataloader_multiprocessing_context": {"dataloader_num_workers": 2},
}
"""Without these the libraries refuse the probe."""
NO_TEXT = {
    "parallelism_config": "an object of accelerate's, which no YAML can hold; its own file says it",
}


def reached(directory: Path, settings: dict[str, Any], world_processes: int = 1) -> Any:
    """Build the arguments of a run file that says this and what every run file says."""
    common = {"model_name_or_path": "m", "dataset_name": "d", "use_cpu": True}
    config = read_settings(directory, {**common, **settings}).config
    world = World(
        processes=world_processes, distributed_type=None, device="cpu", batch=Batch(2, 3, 1), source="a test"
    )
    forget_accelerate()
    try:
        return training_arguments(config, world, ())
    finally:
        forget_accelerate()


def plain(value: Any) -> Any:
    """Undo what transformers makes of a value: enumerations, objects, and lists of one."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return getattr(value, "value", value)


def test_every_field_is_probed_or_has_a_reason_not_to_be() -> None:
    fields = {field.name for field in dataclasses.fields(trl.SFTConfig)}
    assert fields == {*PROBES, *HANDLED, *NO_TEXT}
    assert not set(PROBES) & {*HANDLED, *NO_TEXT}


@pytest.mark.parametrize("name", sorted({*PROBES} - {"ddp_backend"}))
def test_field_reaches_trl(name: str, tmp_path: Path) -> None:
    default = next(field for field in dataclasses.fields(trl.SFTConfig) if field.name == name).default
    probe = PROBES[name]
    assert probe != default or name in ("bf16",), "a probe that is the default shows nothing"
    found = plain(getattr(reached(tmp_path, {**NEEDS.get(name, {}), name: probe}), name))
    if name == "debug":
        found = found[0].value
    if name == "accelerator_config":
        found = {key: found[key] for key in probe}
    assert found == probe


def test_ddp_backend_reaches_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not built: outside a launch it would look for the other ranks."""
    monkeypatch.setattr("sft.training.arguments.trl.SFTConfig", dict)
    assert reached(tmp_path, {"ddp_backend": PROBES["ddp_backend"]})["ddp_backend"] == "gloo"


def test_what_is_left_out_keeps_trls_default(tmp_path: Path) -> None:
    found = reached(tmp_path, {})
    forget_accelerate()
    stock = trl.SFTConfig(output_dir=str(tmp_path / "out"), use_cpu=True, per_device_train_batch_size=2)
    differing = {
        field.name
        for field in dataclasses.fields(trl.SFTConfig)
        if str(getattr(found, field.name)) != str(getattr(stock, field.name))
    }
    assert differing == {
        "gradient_accumulation_steps",
        "model_init_kwargs",
        "disable_tqdm",
        "restore_callback_states_from_checkpoint",
    }


def test_fields_that_the_kit_handles(tmp_path: Path) -> None:
    found = reached(
        tmp_path,
        {
            "push_to_hub": True,
            "hub_model_id": "me/model",
            "report_to": ["tensorboard"],
            "disable_tqdm": False,
            "save_total_limit": 2,
            "resume_from_checkpoint": True,
            "dtype": "bfloat16",
            "attn_implementation": "eager",
            "model_revision": "v2",
            "model_init_kwargs": {"low_cpu_mem_usage": True, "revision": "v3"},
        },
    )
    assert (found.push_to_hub, found.hub_model_id) == (False, None)
    assert found.report_to == []
    assert found.disable_tqdm is True
    assert found.save_total_limit is None
    assert found.restore_callback_states_from_checkpoint is True
    assert found.resume_from_checkpoint is None
    assert (found.per_device_train_batch_size, found.gradient_accumulation_steps) == (2, 3)
    assert found.output_dir == str(tmp_path / "out")
    assert found.model_init_kwargs == {
        "revision": "v3",
        "trust_remote_code": False,
        "attn_implementation": "eager",
        "dtype": "bfloat16",
        "low_cpu_mem_usage": True,
    }


def test_model_init_kwargs_may_be_json_as_on_a_command_line(tmp_path: Path) -> None:
    found = reached(tmp_path, {"model_init_kwargs": '{"use_cache": false}'})
    assert found.model_init_kwargs["use_cache"] is False


def test_a_collective_waits_longer_than_any_phase_of_a_supervised_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"launch": {"limits": {"prepare": 10_000}}}
    assert reached(tmp_path, limits).ddp_timeout == 1800
    monkeypatch.setenv("SFT_SUPERVISED", "1")
    assert reached(tmp_path, limits).ddp_timeout == 10_060
    assert reached(tmp_path, {**limits, "ddp_timeout": 600}).ddp_timeout == 600
