"""An arrangement as the text of an accelerate configuration, and of the DeepSpeed JSON beside it.

Pure (`launch_files` looks at CUDA_VISIBLE_DEVICES too): the same arrangement gives the same text. Each setting that matters is set on purpose, with its reason
in a comment; JSON has no comments, so DeepSpeed's are told in the accelerate file.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sft.config.kit import Strategy
from sft.plan.arrangement import Arrangement, Precision
from sft.plan.document import plain
from sft.plan.own_file import OwnFile, read_own_file
from sft.plan.plan import Plan
from sft.rundir import RunDirectory


@dataclass(frozen=True, slots=True)
class AccelerateFiles:
    """`accelerate_yaml` names the DeepSpeed file by the path it was made for."""

    accelerate_yaml: str
    deepspeed_json: str | None


DEEPSPEED_COMMENTS = {
    "zero_optimization.stage": "1 shards the optimizer, 2 the gradients too, 3 the parameters too",
    "zero_optimization.overlap_comm": "reduce gradients while the backward pass goes on",
    "zero_optimization.contiguous_gradients": "copy gradients into one buffer: no fragmentation",
    "zero_optimization.reduce_bucket_size": "elements reduced at once; auto is hidden size squared",
    "zero_optimization.allgather_bucket_size": "elements gathered at once: 1 GB in bf16 at 5e8",
    "zero_optimization.stage3_prefetch_bucket_size": "elements fetched ahead; auto is 0.9 x hidden size squared",
    "zero_optimization.stage3_param_persistence_threshold": "smaller parameters stay whole; auto is 10 x hidden size",
    "zero_optimization.stage3_max_live_parameters": "parameters held gathered at most",
    "zero_optimization.stage3_max_reuse_distance": "release a parameter that is not used again within so many",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": "save whole weights, not shards only",
    "zero_optimization.offload_optimizer": "optimizer states and its step in host memory",
    "zero_optimization.offload_param": "parameters in host memory until a layer needs them",
    "zero_force_ds_cpu_optimizer": "without a GPU torch's own AdamW is used: DeepSpeed's would need a compiler",
    "zero_allow_untested_optimizer": "accept the optimizers of the run file (8-bit, Adafactor, ...)",
    "bf16.enabled": "auto: as the run file has it",
    "fp16.enabled": "auto: as the run file has it",
    "gradient_clipping": "auto: max_grad_norm of the run file",
    "train_micro_batch_size_per_gpu": "auto: per_device_train_batch_size of the run file",
    "gradient_accumulation_steps": "auto: as the run file has it; a number here would have to agree",
}


def deepspeed_settings(arrangement: Arrangement) -> dict[str, Any]:
    """Return DeepSpeed's configuration; "auto" is filled in by the trainer."""
    stage = arrangement.strategy.zero_stage
    if stage is None:
        raise ValueError(f"{arrangement.strategy} is not one of DeepSpeed's")
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
    if arrangement.strategy is Strategy.ZERO3_OFFLOAD:
        host = {"device": "cpu", "pin_memory": arrangement.device == "gpu"}
        if arrangement.offload in ("optimizer", "both"):
            zero["offload_optimizer"] = host
        if arrangement.offload in ("parameters", "both"):
            zero["offload_param"] = host
        if arrangement.device == "cpu":
            settings["zero_force_ds_cpu_optimizer"] = False
    precision = arrangement.mixed_precision
    return {
        "zero_optimization": zero,
        **settings,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": "auto" if precision == "auto" else precision == "bf16"},
        "fp16": {"enabled": "auto" if precision == "auto" else precision == "fp16"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }


def _deepspeed_comments(settings: Mapping[str, Any]) -> list[str]:
    """Tell each setting of the JSON with its reason, as comments of the YAML."""
    lines = ["  # What the JSON file sets, and why:"]
    for key, reason in DEEPSPEED_COMMENTS.items():
        section, _, name = key.rpartition(".")
        values = settings.get(section) if section else settings
        if not isinstance(values, Mapping) or name not in values:
            continue
        value = values[name]
        shown = key.removeprefix("zero_optimization.")
        told = (
            shown if isinstance(value, dict) else f"{shown} {value if value == 'auto' else json.dumps(value)}"
        )
        if not reason.startswith("auto: "):
            lines.append(f"  #   {told}: {reason}")
        elif value == "auto":
            lines.append(f"  #   {told}: {reason.removeprefix('auto: ')}")
        else:
            lines.append(f"  #   {told}")
    return lines


def _fsdp_lines(arrangement: Arrangement) -> list[str]:
    offload = "true" if arrangement.strategy is Strategy.FSDP2_OFFLOAD else "false"
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


def _machine_lines(arrangement: Arrangement) -> list[str]:
    """Say how many processes there are, and where they meet."""
    counted = "" if arrangement.nodes == 1 else "  # over all machines"
    if arrangement.nodes == 1 and arrangement.distributed_type != "NO":
        counted = "  # `accelerate launch --num_processes N` overrides"
    lines = [
        f"num_machines: {arrangement.nodes}",
        f"num_processes: {arrangement.processes}{counted}",
        f"machine_rank: {arrangement.machine_rank}"
        + (
            "  # of this machine; `accelerate launch --machine_rank N` overrides"
            if arrangement.nodes > 1
            else ""
        ),
    ]
    if arrangement.distributed_type == "NO":
        return lines
    if arrangement.main_process_ip is not None:
        lines.append(f"main_process_ip: {json.dumps(arrangement.main_process_ip)}  # machine 0")
    if arrangement.main_process_port is not None:
        lines.append(f"main_process_port: {arrangement.main_process_port}")
    elif arrangement.nodes == 1:
        lines.append("main_process_port: 0  # any free one")
    if arrangement.nodes > 1:
        lines += ["rdzv_backend: static", "same_network: true  # machines meet at main_process_ip itself"]
    return lines


def render(
    arrangement: Arrangement,
    *,
    command: str,
    deepspeed_path: str | None = None,
    deepspeed: dict[str, Any] | None = None,
) -> AccelerateFiles:
    """Write an arrangement as accelerate's configuration.

    Args:
        command: what wrote it, for the header.
        deepspeed_path: where the JSON will lie; required for the DeepSpeed strategies.
        deepspeed: the JSON's settings, where they are the user's own.
    """
    distributed = arrangement.distributed_type
    count = arrangement.processes
    what = f"{arrangement.strategy.value}, {count} process{'es' if count > 1 else ''}"
    machines = f" on {arrangement.nodes} machines" if arrangement.nodes > 1 else ""
    # accelerate's own MULTI_CPU starts a single process; MULTI_GPU with use_cpu starts as many as are asked for.
    kind = {"NO": "'NO'", "MULTI_CPU": "MULTI_GPU  # with use_cpu: gloo between CPU processes"}
    lines = [
        f"# accelerate configuration: {what}{machines}.",
        f"# Written by: {command}",
        "compute_environment: LOCAL_MACHINE",
        f"distributed_type: {kind.get(distributed, distributed)}",
    ]
    deepspeed_json = None
    if arrangement.strategy.is_deepspeed:
        if deepspeed_path is None:
            raise ValueError("a DeepSpeed strategy needs deepspeed_path")
        settings = deepspeed_settings(arrangement) if deepspeed is None else deepspeed
        deepspeed_json = json.dumps(settings, indent=2) + "\n"
        init = "true" if arrangement.strategy.zero_stage == 3 else "false"
        relative = "" if deepspeed_path.startswith("/") else "  # from where `accelerate launch` is started"
        lines += [
            "deepspeed_config:",
            f"  deepspeed_config_file: {json.dumps(deepspeed_path, ensure_ascii=False)}{relative}",
            f"  zero3_init_flag: {init}  # load each weight straight into its shards (ZeRO-3 only)",
            "  deepspeed_multinode_launcher: standard  # the default needs pdsh and ssh between nodes",
            *_deepspeed_comments(settings),
            "# mixed_precision must not stand here: accelerate refuses it beside a DeepSpeed file.",
        ]
    elif arrangement.strategy.is_fsdp:
        lines += _fsdp_lines(arrangement)
    if not arrangement.strategy.is_deepspeed:
        if arrangement.mixed_precision == "auto":
            lines.append("# mixed_precision is left out: bf16 and fp16 of the run file decide.")
        else:
            lines.append(f"mixed_precision: '{arrangement.mixed_precision}'")
    lines += _machine_lines(arrangement)
    lines.append(f"use_cpu: {'true' if arrangement.device == 'cpu' else 'false'}")
    if arrangement.gpu_ids is not None:
        lines.append(f"gpu_ids: {json.dumps(arrangement.gpu_ids)}")
    return AccelerateFiles("\n".join(lines) + "\n", deepspeed_json)


def launch_files(plan: Plan, run: RunDirectory, command: str) -> AccelerateFiles:
    """Return what a run is launched with: paths absolute, and DeepSpeed's precision left to the trainer.

    Raises:
        UserError: the user's own file is not there any more, or is refused.
    """
    precision: Precision = "auto" if plan.strategy.is_deepspeed else plan.mixed_precision
    gpu_ids = plan.gpu_ids
    if plan.strategy is Strategy.SINGLE and plan.device == "gpu" and gpu_ids is None:
        # One process that sees several GPUs would be spread over them by the trainer, as nn.DataParallel.
        gpu_ids = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    arrangement = dataclasses.replace(plan, mixed_precision=precision, gpu_ids=gpu_ids)
    deepspeed_path = str(run.deepspeed_json.absolute())
    if plan.accelerate_file is None:
        return render(arrangement, command=command, deepspeed_path=deepspeed_path)
    own = read_own_file(plan.accelerate_file)
    deepspeed = _with_batch(plain(own.deepspeed.root), plan) if own.deepspeed is not None else None
    if own.accelerate is None:
        return render(arrangement, command=command, deepspeed_path=deepspeed_path, deepspeed=deepspeed)
    return _own_copy(arrangement, own, deepspeed, deepspeed_path, command)


def _with_batch(settings: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Put the batch of this launch in place of numbers; "auto" stays."""
    numbers = {
        "gradient_accumulation_steps": plan.accumulation,
        "train_micro_batch_size_per_gpu": plan.micro_batch,
    }
    return {
        key: numbers[key] if key in numbers and isinstance(value, int) else value
        for key, value in settings.items()
    }


def _own_copy(
    arrangement: Plan,
    own: OwnFile,
    deepspeed: dict[str, Any] | None,
    deepspeed_path: str,
    command: str,
) -> AccelerateFiles:
    """Copy a user's accelerate file with the numbers of this launch in place of its own."""
    from ruamel.yaml import YAML

    assert own.accelerate is not None
    copied: dict[str, Any] = plain(own.accelerate.root)
    if arrangement.strategy in (Strategy.SINGLE, Strategy.DDP):
        copied["distributed_type"] = "NO" if arrangement.processes == 1 else "MULTI_GPU"
    copied |= {
        "num_machines": arrangement.nodes,
        "num_processes": arrangement.processes,
        "machine_rank": arrangement.machine_rank,
        "main_process_ip": arrangement.main_process_ip,
        "main_process_port": arrangement.main_process_port,
        "use_cpu": arrangement.device == "cpu",
        "gpu_ids": arrangement.gpu_ids,
    }
    if arrangement.nodes == 1 and copied["main_process_port"] is None:
        copied["main_process_port"] = 0
    if deepspeed is not None:
        copied["deepspeed_config"]["deepspeed_config_file"] = deepspeed_path
    elif isinstance(copied.get("deepspeed_config"), dict):
        copied["deepspeed_config"] = _with_batch(copied["deepspeed_config"], arrangement)
    if deepspeed is None and arrangement.mixed_precision != "auto":
        copied["mixed_precision"] = arrangement.mixed_precision
    text = io.StringIO()
    writer = YAML(typ="rt")
    writer.dump({key: _quoted(key, value) for key, value in copied.items() if value is not None}, text)
    header = f"# Copy of {own.accelerate.path}, with the processes, machines and precision of this launch.\n"
    deepspeed_json = json.dumps(deepspeed, indent=2) + "\n" if deepspeed is not None else None
    return AccelerateFiles(f"{header}# Written by: {command}\n{text.getvalue()}", deepspeed_json)


NO_IS_A_NAME = ("distributed_type", "mixed_precision", "dynamo_backend", "backend")
"""Keys whose value NO is not a boolean."""


def _quoted(key: str, value: Any) -> Any:
    """Spell a value so that accelerate, which reads YAML 1.1, takes it for what it is."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return {name: _quoted(name, item) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    if value.lower() in ("yes", "on", "no", "off") and key not in NO_IS_A_NAME:
        return value.lower() in ("yes", "on")
    return DoubleQuotedScalarString(value)
