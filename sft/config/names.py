"""Names that TRL, transformers, accelerate and PEFT's `examples/sft` use or used, read as today's.

Three kinds: renamed (same meaning, new name), converted (the value changes too) and retired (accepted
where the value is what happens anyway, refused with the reason where it is not). `normalize` applies them
to one layer of settings and tells each use in one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sft.errors import Problem


@dataclass(frozen=True, slots=True)
class Entry:
    """One value and where it was given: `run.yaml:14`, `--learning_rate`, `site.yaml:3`."""

    value: Any
    where: str


@dataclass(slots=True)
class Normalized:
    """A layer of settings under today's names, with what is to be said about it."""

    entries: dict[str, Entry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def _truth(value: Any) -> bool | None:
    """Read a boolean as the run file does; None where it is none."""
    text = str(value).strip().lower()
    if text in {"true", "yes", "on", "1"}:
        return True
    return False if text in {"false", "no", "off", "0", "none", "null", ""} else None


RENAMED = {
    "max_seq_length": "max_length",
    "torch_dtype": "dtype",
    "use_peft_lora": "use_peft",
    "use_4bit_quantization": "load_in_4bit",
    "use_8bit_quantization": "load_in_8bit",
    "use_nested_quant": "use_bnb_nested_quant",
    "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
    "bnb_4bit_quant_storage_dtype": "bnb_4bit_quant_storage",
    "evaluation_strategy": "eval_strategy",
    "push_to_hub_model_id": "hub_model_id",
    "no_cuda": "use_cpu",
    "use_liger": "use_liger_kernel",
    "warmup_ratio": "warmup_steps",
    "xpu_backend": "ddp_backend",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "dataset_train_name": "dataset_train_split",
    "dataset_test_name": "dataset_test_split",
    "eval_dataset_split": "dataset_test_split",
    # accelerate's launch keys, which TRL takes in the same file
    "accelerate_config": "launch.accelerate_config",
    "config_file": "launch.accelerate_config",
    "deepspeed": "launch.accelerate_config",
    "deepspeed_config_file": "launch.accelerate_config",
    "num_processes": "launch.num_processes",
    "num_machines": "launch.nodes",
    "machine_rank": "launch.machine_rank",
    "main_process_ip": "launch.main_process_ip",
    "main_process_port": "launch.main_process_port",
    "gpu_ids": "launch.gpu_ids",
    "num_cpu_threads_per_process": "launch.threads_per_process",
    # short forms of the keys that are given most often on a command line
    "strategy": "launch.strategy",
    "nodes": "launch.nodes",
    "gpus_per_node": "launch.gpus_per_node",
    "processes_per_node": "launch.processes_per_node",
}
SILENT = frozenset(name for name, new in RENAMED.items() if new.startswith("launch."))
"""Names that are still their library's own, or our short forms: nothing to say about them."""


def _splits(value: Any) -> dict[str, Any]:
    names = [name.strip() for name in str(value).split(",")]
    new: dict[str, Any] = {"dataset_train_split": names[0]}
    if len(names) > 1:
        new["dataset_test_split"] = names[1]
    return new


def _mixed_precision(value: Any) -> dict[str, Any]:
    return {
        "bf16": {"bf16": True},
        "fp16": {"fp16": True},
        "no": {"bf16": False, "fp16": False},
        "False": {"bf16": False, "fp16": False},
    }[str(value)]


CONVERTED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "use_flash_attn": lambda value: {"attn_implementation": "flash_attention_2"} if _truth(value) else {},
    "use_flash_attention_2": lambda value: (
        {"attn_implementation": "flash_attention_2"} if _truth(value) else {}
    ),
    "use_reentrant": lambda value: {"gradient_checkpointing_kwargs": {"use_reentrant": bool(_truth(value))}},
    "gradient_checkpointing_use_reentrant": lambda value: {
        "gradient_checkpointing_kwargs": {"use_reentrant": bool(_truth(value))}
    },
    "group_by_length": lambda value: {"train_sampling_strategy": "group_by_length"} if _truth(value) else {},
    "adafactor": lambda value: {"optim": "adafactor"} if _truth(value) else {},
    "splits": _splits,
    "split_batches": lambda value: {"accelerator_config": {"split_batches": bool(_truth(value))}},
    "mixed_precision": _mixed_precision,
    "multi_gpu": lambda value: {"launch.strategy": "ddp"} if _truth(value) else {},
    "zero_stage": lambda value: {"launch.strategy": {"0": "ddp"}.get(str(value), f"zero{value}")},
    "cpu": lambda value: {"use_cpu": bool(_truth(value))},
}


@dataclass(frozen=True, slots=True)
class Retired:
    """A name that has no successor.

    `anyway`: the values (lower case) that describe what happens anyway; `why`: what happens instead.
    """

    anyway: frozenset[str]
    why: str
    fix: str = "remove it"


def _retired(*anyway: str, why: str, fix: str = "remove it") -> Retired:
    return Retired(frozenset(anyway), why, fix)


_FALSE = ("false", "no", "0", "none", "null", "off")
_TRUE = ("true", "yes", "1", "on")
RETIRED = {
    "overwrite_output_dir": _retired(
        *_FALSE, why="a run directory is continued, never overwritten", fix="choose another output_dir"
    ),
    "save_safetensors": _retired(*_TRUE, why="weights are always saved as safetensors"),
    "add_special_tokens": _retired(
        *_FALSE, why="special tokens come from the chat template; plain text gets the tokenizer's own"
    ),
    "append_concat_token": _retired(
        *_FALSE, why="packed samples are kept apart without a token between them"
    ),
    "chat_template_format": _retired(
        "none",
        why="the tokenizer's own template is never replaced by a built-in one",
        fix="set chat_template_path to a tokenizer or a .jinja file",
    ),
    "use_unsloth": _retired(
        *_FALSE, why="unsloth is not supported: it patches the libraries that the kit checks"
    ),
    "use_deepspeed": _retired(
        *_TRUE, *_FALSE, why="the strategy says whether DeepSpeed runs", fix="set launch.strategy"
    ),
    "use_fsdp": _retired(*_FALSE, why="FSDP is a strategy", fix="set launch: {strategy: fsdp2}"),
    "fsdp": _retired(
        "",
        *_FALSE,
        why="FSDP is a strategy, set at launch, not by the trainer",
        fix="set launch: {strategy: fsdp2}",
    ),
    "fsdp_config": _retired(
        *_FALSE,
        why="FSDP is configured at launch, not by the trainer",
        fix="set launch: {strategy: fsdp2}, or name your accelerate file with accelerate_config",
    ),
    "hub_token": _retired(
        *_FALSE,
        why="a token in a run file ends up in logs and on the Hub",
        fix="export HF_TOKEN, or `hf auth login`",
    ),
    "push_to_hub_token": _retired(
        *_FALSE,
        why="a token in a run file ends up in logs and on the Hub",
        fix="export HF_TOKEN, or `hf auth login`",
    ),
    "push_to_hub_organization": _retired(
        *_FALSE, why="the organization is part of hub_model_id", fix="set hub_model_id: organization/name"
    ),
    "logging_dir": _retired(
        *_FALSE,
        why="transformers 5 has no logging_dir",
        fix="export TENSORBOARD_LOGGING_DIR=/path, or leave the default",
    ),
    "bnb_4bit_compute_dtype": _retired(
        *_FALSE, why="4-bit layers compute in dtype", fix="set dtype to the compute type you want"
    ),
    "num_of_sequences": _retired(why="packing needs no buffer", fix="remove it"),
    "chars_per_token": _retired(why="packing counts real tokens", fix="remove it"),
    "dataset_batch_size": _retired(
        why="rows are prepared in batches of the library's own size", fix="remove it"
    ),
    "tokenizer_name": _retired(
        *_FALSE, why="the tokenizer is the model's", fix="save the tokenizer you want beside the model"
    ),
    "use_mps_device": _retired(*_FALSE, why="Apple GPUs are not supported", fix="remove it"),
    "tpu_num_cores": _retired(*_FALSE, why="TPUs are not supported", fix="remove it"),
    "use_ipex": _retired(*_FALSE, why="transformers 5 has no IPEX path", fix="remove it"),
    "fp16_backend": _retired("auto", *_FALSE, why="PyTorch's own mixed precision is used", fix="remove it"),
    "half_precision_backend": _retired(
        "auto", *_FALSE, why="PyTorch's own mixed precision is used", fix="remove it"
    ),
    "fp16_opt_level": _retired("o1", *_FALSE, why="there is no apex path", fix="remove it"),
    "jit_mode_eval": _retired(*_FALSE, why="transformers 5 has no TorchScript evaluation", fix="remove it"),
    "past_index": _retired("-1", *_FALSE, why="transformers 5 has no past_index", fix="remove it"),
    "include_tokens_per_second": _retired(*_FALSE, *_TRUE, why="trained tokens a second are always reported"),
    "rdzv_backend": _retired("static", why="machines meet at a fixed address", fix="remove it"),
    "same_network": _retired(*_TRUE, why="machines meet at main_process_ip", fix="remove it"),
    "max_restarts": _retired("0", why="torchrun restarts without a checkpoint", fix="remove it"),
}

MODULE_LIST = re.compile(r"^\s*[\w.-]+(\s*,\s*[\w.-]+)+\s*$")


def _module_names(value: Any) -> Any:
    """Split `q_proj,k_proj` (PEFT's examples); a regex or `all-linear` stays as it is."""
    if isinstance(value, str) and MODULE_LIST.match(value):
        return [name.strip() for name in value.split(",")]
    return value


def normalize(layer: dict[str, Entry]) -> Normalized:
    """Read one layer (the site's file, the run file, or the flags) under today's names."""
    result = Normalized()

    def put(key: str, value: Any, where: str, given: str) -> None:
        present = result.entries.get(key) or (layer.get(key) if key != given else None)
        if present is not None and isinstance(present.value, dict) and isinstance(value, dict):
            value = {**value, **present.value}
        elif present is not None and present.value != value:
            result.problems.append(
                Problem(f"{given} and {key} are the same setting with two values", where, f"keep {key}")
            )
            return
        result.entries[key] = Entry(value, where)

    for key, entry in layer.items():
        text = str(entry.value).strip().lower()
        if key in RENAMED:
            put(RENAMED[key], entry.value, entry.where, key)
            if key not in SILENT:
                result.notes.append(f"{key} is read as {RENAMED[key]} ({entry.where})")
        elif key in CONVERTED:
            try:
                converted = CONVERTED[key](entry.value)
            except KeyError:
                result.problems.append(
                    Problem(f"{key} cannot be {entry.value!r}", entry.where, "use no, bf16 or fp16")
                )
                continue
            for new, value in converted.items():
                put(new, value, entry.where, key)
            told = ", ".join(f"{new}: {value}" for new, value in converted.items()) or "the default"
            result.notes.append(f"{key}: {entry.value} is read as {told} ({entry.where})")
        elif key in RETIRED:
            retired = RETIRED[key]
            if entry.value is None or text in retired.anyway:
                result.notes.append(f"{key} is not needed any more: {retired.why} ({entry.where})")
            else:
                result.problems.append(
                    Problem(
                        f"{key}: {entry.value} cannot take effect: {retired.why}", entry.where, retired.fix
                    )
                )
        elif key in ("lora_target_modules", "lora_modules_to_save", "lora_target_parameters"):
            put(key, _module_names(entry.value), entry.where, key)
        else:
            put(key, entry.value, entry.where, key)
    return result
