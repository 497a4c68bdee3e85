"""A plan as the text of an accelerate configuration, and of the DeepSpeed JSON beside it.

Pure: the same plan gives the same text. Each setting that matters is set on purpose, with its reason in a
comment; JSON has no comments, so DeepSpeed's are told in the accelerate file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sft.config.kit import Strategy
from sft.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class AccelerateFiles:
    """`accelerate_yaml` names the DeepSpeed file by the path it was made for."""

    accelerate_yaml: str
    deepspeed_json: str | None


DEEPSPEED_COMMENTS = {
    "zero_optimization.stage": "1 shards the optimizer, 2 the gradients too, 3 the parameters too",
    "zero_optimization.overlap_comm": "reduce gradients while the backward pass goes on",
    "zero_optimization.contiguous_gradients": "copy gradients into one buffer: no fragmentation",
    "zero_optimization.reduce_bucket_size": "elements reduced at once; auto: hidden size squared, set by the trainer",
    "zero_optimization.allgather_bucket_size": "elements gathered at once: 1 GB in bf16 at 5e8",
    "zero_optimization.stage3_prefetch_bucket_size": "parameters fetched ahead; auto: 0.9 x hidden size squared",
    "zero_optimization.stage3_param_persistence_threshold": "smaller parameters stay whole; auto: 10 x hidden size",
    "zero_optimization.stage3_max_live_parameters": "parameters held gathered at most",
    "zero_optimization.stage3_max_reuse_distance": "release a parameter that is not used again within so many",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": "save whole weights, not shards only",
    "zero_optimization.offload_optimizer": "optimizer states and step on the CPU, in pinned memory",
    "zero_optimization.offload_param": "parameters in host memory until a layer needs them",
    "zero_force_ds_cpu_optimizer": "without a GPU torch's own AdamW is used: DeepSpeed's would need a compiler",
    "zero_allow_untested_optimizer": "accept the optimizers of the run file (8-bit, Adafactor, ...)",
    "gradient_clipping": "auto: max_grad_norm of the run file",
    "train_micro_batch_size_per_gpu": "auto: per_device_train_batch_size of the run file",
    "gradient_accumulation_steps": "auto: as the run file has it; a number here would have to agree",
    "bf16.enabled": "auto: as the run file has it",
}


def deepspeed_settings(plan: Plan) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a plan; "auto" is filled in by the trainer."""
    stage = plan.strategy.zero_stage
    assert stage is not None
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto" if stage == 3 else 500_000_000,
    }
    if stage < 3:
        zero["allgather_bucket_size"] = 500_000_000
    else:
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    settings: dict[str, Any] = {}
    if plan.strategy is Strategy.ZERO3_OFFLOAD:
        pin = plan.device == "gpu"
        if plan.offload in ("optimizer", "both"):
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pin}
        if plan.offload in ("parameters", "both"):
            zero["offload_param"] = {"device": "cpu", "pin_memory": pin}
        if plan.device == "cpu":
            settings["zero_force_ds_cpu_optimizer"] = False
    return {
        "zero_optimization": zero,
        **settings,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def _deepspeed_comments(settings: dict[str, Any]) -> list[str]:
    flat = {
        **settings,
        **{f"{top}.{key}": value for top in settings for key, value in _members(settings[top])},
    }
    lines = ["  # What the JSON file sets, and why:"]
    for key, reason in DEEPSPEED_COMMENTS.items():
        if key in flat:
            value = flat[key]
            told = "" if isinstance(value, dict) else f" = {json.dumps(value)}"
            lines.append(f"  #   {key.removeprefix('zero_optimization.')}{told}: {reason}")
    return lines


def _members(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _fsdp_lines(plan: Plan) -> list[str]:
    offload = "true" if plan.strategy is Strategy.FSDP2_OFFLOAD else "false"
    return [
        "fsdp_config:",
        "  fsdp_version: 2",
        "  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP  # one shard group a decoder layer, as the model names them",
        "  fsdp_reshard_after_forward: true  # free a layer's parameters after its forward pass (ZeRO-3, not ZeRO-2)",
        "  fsdp_state_dict_type: FULL_STATE_DICT  # SHARDED_STATE_DICT would leave output_dir without a model",
        "  fsdp_cpu_ram_efficient_loading: true  # rank 0 reads the weights, the others receive their shards",
        f"  fsdp_offload_params: {offload}  # parameters, gradients and optimizer in host memory",
        "  fsdp_activation_checkpointing: false  # gradient_checkpointing of the run file does it",
    ]


def render(plan: Plan, *, command: str, deepspeed_path: str | None = None) -> AccelerateFiles:
    """Write a plan as accelerate's configuration.

    Args:
        command: what wrote it, for the header.
        deepspeed_path: where the JSON will lie; required for the DeepSpeed strategies.
    """
    kinds = {"NO": "'NO'", "MULTI_CPU": "MULTI_GPU"}
    single_machine = plan.nodes == 1
    lines = [
        f"# accelerate configuration: {plan.strategy.value}, {plan.processes} process{'es' * (plan.processes > 1)}.",
        f"# Written by: {command}",
        "compute_environment: LOCAL_MACHINE",
        f"distributed_type: {kinds.get(plan.distributed_type, plan.distributed_type)}"
        + ("  # with use_cpu: gloo between CPU processes" if plan.distributed_type == "MULTI_CPU" else ""),
    ]
    deepspeed_json = None
    if plan.strategy.is_deepspeed:
        if deepspeed_path is None:
            raise ValueError("a DeepSpeed strategy needs deepspeed_path")
        settings = deepspeed_settings(plan)
        deepspeed_json = json.dumps(settings, indent=2) + "\n"
        init = "true" if plan.strategy.zero_stage == 3 else "false"
        lines += [
            "deepspeed_config:",
            f"  deepspeed_config_file: {deepspeed_path}",
            f"  zero3_init_flag: {init}  # load each weight straight into its shards",
            "  deepspeed_multinode_launcher: standard  # the default needs pdsh and ssh between nodes",
            *_deepspeed_comments(settings),
        ]
    if plan.strategy.is_fsdp:
        lines += _fsdp_lines(plan)
    if not plan.strategy.is_deepspeed:
        lines.append(f"mixed_precision: '{plan.mixed_precision}'")
    lines += [
        f"num_machines: {plan.nodes}",
        f"num_processes: {plan.processes}  # over all machines",
        f"machine_rank: {plan.machine_rank}",
    ]
    if plan.main_process_ip is not None:
        lines.append(f"main_process_ip: {plan.main_process_ip}")
    port = plan.main_process_port
    if port is None and single_machine:
        port = 0
    if port is not None:
        lines.append(f"main_process_port: {port}" + ("  # any free one" if port == 0 else ""))
    lines += [
        "rdzv_backend: static",
        "same_network: true  # machines meet at main_process_ip itself",
        f"use_cpu: {'true' if plan.device == 'cpu' else 'false'}",
    ]
    if plan.gpu_ids is not None:
        lines.append(f"gpu_ids: '{plan.gpu_ids}'")
    lines += ["main_training_function: main", "debug: false"]
    return AccelerateFiles("\n".join(lines) + "\n", deepspeed_json)
