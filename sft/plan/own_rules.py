"""What a user's accelerate file may not ask for here, with the reason and the nearest that works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sft.errors import Problem
from sft.plan.document import Document

# accelerate's own list, in DeepSpeedPlugin._deepspeed_config_checks.
REFUSED_BESIDE_A_DEEPSPEED_FILE = (
    "gradient_accumulation_steps",
    "gradient_clipping",
    "zero_stage",
    "offload_optimizer_device",
    "offload_param_device",
    "offload_param_nvme_path",
    "offload_optimizer_nvme_path",
    "zero3_save_16bit_model",
)
UNSUPPORTED_TYPES = {
    "XLA": "TPUs are not supported",
    "TPU": "TPUs are not supported",
    "MEGATRON_LM": "Megatron-LM is not supported: TRL's trainer cannot train with it",
    "MULTI_CPU": "accelerate starts a single process for it",
}
NEAREST_TYPE = {
    "MEGATRON_LM": "use distributed_type: FSDP with fsdp_version: 2, or DEEPSPEED",
    "MULTI_CPU": "use distributed_type: MULTI_GPU with use_cpu: true",
}


def truth(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "yes", "1")


def section_of(document: Document, name: str) -> Mapping[str, Any]:
    found = document.root.get(name)
    return found if isinstance(found, Mapping) else {}


def refused(document: Document) -> list[Problem]:
    """Tell what an accelerate file asks for that is not run here."""
    root = document.root
    problems: list[Problem] = []

    def refuse(keys: tuple[str, ...], what: str, fix: str) -> None:
        problems.append(Problem(what, document.where(keys), fix))

    kind = str(root.get("distributed_type"))
    if root.get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
        refuse(
            ("compute_environment",), f"{root['compute_environment']} is not supported", "use LOCAL_MACHINE"
        )
    elif "distributed_type" not in root:
        refuse((), "the file names no distributed_type", "set NO, MULTI_GPU, DEEPSPEED or FSDP")
    elif kind in UNSUPPORTED_TYPES or kind not in ("NO", "MULTI_GPU", "DEEPSPEED", "FSDP"):
        why = UNSUPPORTED_TYPES.get(kind, "NVIDIA GPUs and CPUs are supported")
        refuse(
            ("distributed_type",),
            f"distributed_type {kind} cannot be used: {why}",
            NEAREST_TYPE.get(kind, "use NO, MULTI_GPU, DEEPSPEED or FSDP"),
        )
    for key in ("tpu_use_cluster", "tpu_use_sudo", "tpu_name", "megatron_lm_config", "parallelism_config"):
        if root.get(key) not in (None, False, "", {}) and not problems:
            refuse((key,), f"{key} is not supported", "remove it")
    if root.get("mixed_precision") == "fp8":
        refuse(("mixed_precision",), "fp8 is not supported: the trainer has bf16 and fp16", "use bf16")
    if kind == "FSDP":
        problems += _refused_fsdp(document)
    if kind == "DEEPSPEED":
        problems += _refused_deepspeed(document)
    return problems


def _refused_fsdp(document: Document) -> list[Problem]:
    section = {
        key if key.startswith("fsdp") else f"fsdp_{key}": key for key in section_of(document, "fsdp_config")
    }
    values = {name: section_of(document, "fsdp_config")[key] for name, key in section.items()}

    def place(name: str) -> str:
        return document.where(("fsdp_config", section[name]) if name in section else ("fsdp_config",))

    if str(values.get("fsdp_version", 1)) != "2":
        return [
            Problem(
                "FSDP version 1 does not resume exactly, and is not run",
                place("fsdp_version"),
                "set fsdp_version: 2 and fsdp_reshard_after_forward: true, or accelerate_config: fsdp2",
            )
        ]
    # Version 2 shards the saved state unless told otherwise.
    if values.get("fsdp_state_dict_type", "SHARDED_STATE_DICT") != "FULL_STATE_DICT":
        return [
            Problem(
                "a sharded state dict leaves output_dir without a model",
                place("fsdp_state_dict_type"),
                "set fsdp_state_dict_type: FULL_STATE_DICT",
            )
        ]
    return []


def _refused_deepspeed(document: Document) -> list[Problem]:
    section = section_of(document, "deepspeed_config")

    def where(key: str) -> str:
        return document.where(("deepspeed_config", key))

    nodes = document.root.get("num_machines", 1)
    if isinstance(nodes, int) and nodes > 1 and section.get("deepspeed_multinode_launcher") != "standard":
        return [
            Problem(
                "DeepSpeed's own launcher starts every machine over ssh from the first one",
                where("deepspeed_multinode_launcher"),
                "set deepspeed_multinode_launcher: standard, and start each machine",
            )
        ]
    if section.get("deepspeed_config_file"):
        idle: list[tuple[str, ...]] = [
            ("deepspeed_config", key) for key in REFUSED_BESIDE_A_DEEPSPEED_FILE if key in section
        ]
        idle += [("mixed_precision",)] if document.root.get("mixed_precision") is not None else []
        return [
            Problem(
                f"accelerate refuses {keys[-1]} beside a deepspeed_config_file",
                document.where(keys),
                "set it in the DeepSpeed file, and remove it here",
            )
            for keys in idle
        ]
    if section.get("zero_stage", 2) == 3 and not truth(section.get("zero3_save_16bit_model")):
        return [
            Problem(
                "without zero3_save_16bit_model ZeRO-3 leaves output_dir without a model",
                where("zero3_save_16bit_model"),
                "set zero3_save_16bit_model: true",
            )
        ]
    return []
