"""Names that TRL, transformers, accelerate and PEFT's `examples/sft` use or used: tables, and no code that reads.

Renamed: the same meaning under a new name. Converted: the value changes too. Retired: there is no successor;
accepted where the value is what happens anyway, refused with the reason where it is not. Which of the three a
name is was read off the libraries' own code, not guessed from the name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RENAMED = {
    # TRL
    "max_seq_length": "max_length",
    "torch_dtype": "dtype",
    "use_liger": "use_liger_kernel",
    "dataset_train_name": "dataset_train_split",
    "dataset_test_name": "dataset_test_split",
    # PEFT's examples/sft; max_seq_len is what its scripts have written, relying on argparse to complete it
    "max_seq_len": "max_length",
    "use_peft_lora": "use_peft",
    "use_4bit_quantization": "load_in_4bit",
    "use_bnb_4bit_quantization": "load_in_4bit",
    "use_8bit_quantization": "load_in_8bit",
    "use_nested_quant": "use_bnb_nested_quant",
    "use_gradient_checkpointing": "gradient_checkpointing",
    # bitsandbytes' own
    "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
    # transformers
    "evaluation_strategy": "eval_strategy",
    "push_to_hub_model_id": "hub_model_id",
    "no_cuda": "use_cpu",
    "xpu_backend": "ddp_backend",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "torchdynamo": "torch_compile_backend",
    # accelerate's launch keys, which TRL takes in the same file, and torchrun's
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
    "nnodes": "launch.nodes",
    "nproc_per_node": "launch.processes_per_node",
    # short forms of the keys that are given most often on a command line
    "strategy": "launch.strategy",
    "nodes": "launch.nodes",
    "gpus_per_node": "launch.gpus_per_node",
    "processes_per_node": "launch.processes_per_node",
}
SILENT = frozenset(name for name, new in RENAMED.items() if new.startswith("launch."))
"""Names that are still their library's own, or our short forms: nothing to say about them."""

RENAMED_VALUES = {
    ("packing_strategy", "bfd-requeue"): "bfd_split",
    ("packing_strategy", "ffd"): "bfd",
    ("launch.strategy", "single_gpu"): "single",
    ("launch.strategy", "multi_gpu"): "ddp",
}
"""Values that have a new name; the strategies are TRL's names, still in use, so nothing is said of them."""


def truth(value: Any) -> bool | None:
    """Read a boolean as the run file does; None where it is none."""
    text = str(value).strip().lower()
    if text in ("true", "yes", "on", "1", "t", "y"):
        return True
    return False if text in ("false", "no", "off", "0", "f", "n", "none", "null", "") else None


@dataclass(frozen=True, slots=True)
class Switch:
    """A boolean of old that stands for one value of today's key. Off, it undoes that value in a lower layer."""

    key: str
    value: Any
    words: Callable[[str], Any] | None = None
    """What a value that is no boolean stands for, where there are such values."""

    def __call__(self, value: Any) -> dict[str, Any]:
        on = truth(value)
        if on is None and self.words is not None:
            return {self.key: self.words(str(value))}
        if on is None:
            raise ValueError("it is true or false")
        return {self.key: self.value} if on else {}


def _flag_in(key: str, member: str) -> Callable[[Any], dict[str, Any]]:
    """Return a converter to one boolean member of a mapping."""

    def convert(value: Any) -> dict[str, Any]:
        on = truth(value)
        if on is None:
            raise ValueError("it is true or false")
        return {key: {member: on}}

    return convert


def _splits(value: Any) -> dict[str, Any]:
    """Split names go by the word in them, as PEFT's example sorts them."""
    new: dict[str, Any] = {}
    for name in str(value).split(","):
        name = name.strip()
        kind = "train" if "train" in name else "test" if "test" in name else None
        if kind is None:
            raise ValueError("each split has train or test in its name; set dataset_test_split for another")
        new[f"dataset_{kind}_split"] = name
    return new


def _warmup_ratio(value: Any) -> dict[str, Any]:
    """warmup_steps below 1 is a ratio; a ratio of 1 would be one step."""
    try:
        ratio = float(value)
    except (TypeError, ValueError):
        raise ValueError("it is a number from 0 to 1") from None
    if not 0 <= ratio < 1:
        raise ValueError("it is at least 0 and below 1; for steps set warmup_steps")
    return {"warmup_steps": ratio}


def _zero_stage(value: Any) -> dict[str, Any]:
    stages = {"0": "ddp", "1": "zero1", "2": "zero2", "3": "zero3"}
    if str(value) not in stages:
        raise ValueError("it is 0, 1, 2 or 3")
    return {"launch.strategy": stages[str(value)]}


def _fsdp_words(text: str) -> str:
    """transformers 5 takes true; before it took words, of which FSDP2 keeps full_shard, auto_wrap and offload."""
    words = set(text.replace(",", " ").split())
    if "full_shard" not in words or not words <= {"full_shard", "auto_wrap", "offload"}:
        raise ValueError("FSDP2 has full_shard, auto_wrap and offload; set launch.strategy: fsdp2 or zero2")
    return "fsdp2_offload" if "offload" in words else "fsdp2"


def _metrics_inputs(value: Any) -> dict[str, Any]:
    return {"include_for_metrics": ["inputs"]} if truth(value) else {}


FLASH = Switch("attn_implementation", "flash_attention_2")
CONVERTED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "use_flash_attn": FLASH,
    "use_flash_attention_2": FLASH,
    "use_reentrant": _flag_in("gradient_checkpointing_kwargs", "use_reentrant"),
    "gradient_checkpointing_use_reentrant": _flag_in("gradient_checkpointing_kwargs", "use_reentrant"),
    "splits": _splits,
    "warmup_ratio": _warmup_ratio,
    "group_by_length": Switch("train_sampling_strategy", "group_by_length"),
    "adafactor": Switch("optim", "adafactor"),
    "include_inputs_for_metrics": _metrics_inputs,
    "split_batches": _flag_in("accelerator_config", "split_batches"),
    "dispatch_batches": _flag_in("accelerator_config", "dispatch_batches"),
    "multi_gpu": Switch("launch.strategy", "ddp"),
    "use_fsdp": Switch("launch.strategy", "fsdp2"),
    "fsdp": Switch("launch.strategy", "fsdp2", _fsdp_words),
    "zero_stage": _zero_stage,
    "cpu": Switch("use_cpu", True),
}
