"""Names without a successor: which of their values are what happens anyway, and why the others cannot be had."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retired:
    """`anyway`: the values (lower case) that describe what happens anyway; `why`: what happens instead.

    A secret's value is never repeated.
    """

    anyway: frozenset[str]
    why: str
    fix: str = "remove it"
    secret: bool = False


def _retired(*anyway: str, why: str, fix: str = "remove it", secret: bool = False) -> Retired:
    return Retired(frozenset(anyway), why, fix, secret)


_FALSE = ("false", "no", "0", "none", "null", "off", "")
_TRUE = ("true", "yes", "1", "on")
_TOKEN = _retired(
    *_FALSE,
    why="a token in a run file ends up in logs and on the Hub",
    fix="export HF_TOKEN, or `hf auth login`",
    secret=True,
)
_AMP = "PyTorch's own mixed precision is used"
RETIRED = {
    # PEFT's examples/sft
    "add_special_tokens": _retired(
        *_FALSE, why="special tokens come from the chat template; plain text gets the tokenizer's own"
    ),
    "append_concat_token": _retired(
        *_FALSE, why="packed samples are kept apart without a token between them"
    ),
    "chat_template_format": _retired(
        *_FALSE,
        why="the model keeps its own template, special tokens and embeddings",
        fix="remove it, or set chat_template_path to a tokenizer or a .jinja file",
    ),
    "use_unsloth": _retired(
        *_FALSE, why="unsloth is not supported: it patches the libraries that the kit checks"
    ),
    "use_loftq": _retired(*_FALSE, why="LoftQ's initialisation is not offered by TRL's settings"),
    "use_loftq_callback": _retired(*_FALSE, why="LoftQ's initialisation is not offered by TRL's settings"),
    "lora_mpo": _retired(*_FALSE, why="TRL's settings offer LoRA, rsLoRA and DoRA, not MPO"),
    "adapter_name": _retired("default", *_FALSE, why="an adapter is saved under PEFT's name, default"),
    "tokenizer_name": _retired(
        *_FALSE, why="the tokenizer is the model's", fix="save the tokenizer you want beside the model"
    ),
    # TRL
    "num_of_sequences": _retired(why="packing needs no buffer"),
    "chars_per_token": _retired(why="packing counts real tokens"),
    "dataset_batch_size": _retired(why="rows are prepared in batches of the library's own size"),
    "base_model_revision": _retired(*_FALSE, why="the base is the model", fix="set model_revision"),
    "model_code_revision": _retired(*_FALSE, why="code comes with the model", fix="set model_revision"),
    # transformers
    "overwrite_output_dir": _retired(
        *_FALSE, why="a run directory is continued, never overwritten", fix="choose another output_dir"
    ),
    "save_safetensors": _retired(*_TRUE, why="weights are always saved as safetensors"),
    "fsdp_config": _retired(
        *_FALSE,
        why="FSDP is configured at launch, not by the trainer",
        fix="set launch: {strategy: fsdp2}, or name your accelerate file with accelerate_config",
    ),
    "fsdp_min_num_params": _retired("0", *_FALSE, why="FSDP2 wraps each decoder layer"),
    "fsdp_transformer_layer_cls_to_wrap": _retired(
        *_FALSE, why="FSDP2 wraps the layers that the model itself names"
    ),
    "hub_token": _TOKEN,
    "push_to_hub_token": _TOKEN,
    "push_to_hub_organization": _retired(
        *_FALSE, why="the organization is part of hub_model_id", fix="set hub_model_id: organization/name"
    ),
    "logging_dir": _retired(
        *_FALSE,
        why="transformers 5 has no logging_dir",
        fix="export TENSORBOARD_LOGGING_DIR=/path, or leave the default",
    ),
    "use_mps_device": _retired(*_FALSE, why="Apple GPUs are not supported"),
    "tpu_num_cores": _retired(*_FALSE, why="TPUs are not supported"),
    "tpu_metrics_debug": _retired(*_FALSE, why="TPUs are not supported"),
    "use_ipex": _retired(*_FALSE, why="transformers 5 has no IPEX path"),
    "fp16_backend": _retired("auto", *_FALSE, why=_AMP),
    "half_precision_backend": _retired("auto", *_FALSE, why=_AMP),
    "fp16_opt_level": _retired("o1", *_FALSE, why="there is no apex path"),
    "jit_mode_eval": _retired(*_FALSE, why="transformers 5 has no TorchScript evaluation"),
    "past_index": _retired("-1", *_FALSE, why="transformers 5 has no past_index"),
    "mp_parameters": _retired(*_FALSE, why="SageMaker's model parallelism is not supported"),
    "ray_scope": _retired("last", *_FALSE, why="there is no hyper-parameter search here"),
    "use_legacy_prediction_loop": _retired(*_FALSE, why="transformers 5 has one prediction loop"),
    "include_tokens_per_second": _retired(*_FALSE, *_TRUE, why="trained tokens a second are always reported"),
    # accelerate's launch keys
    "use_deepspeed": _retired(
        *_FALSE, why="the strategy says whether DeepSpeed runs", fix="set launch: {strategy: zero3}"
    ),
    "offload_optimizer_device": _retired(
        *_FALSE, why="offloading is a strategy", fix="set launch: {strategy: zero3_offload}"
    ),
    "offload_param_device": _retired(
        *_FALSE, why="offloading is a strategy", fix="set launch: {strategy: zero3_offload}"
    ),
    "gradient_clipping": _retired(
        *_FALSE, why="gradients are clipped by max_grad_norm", fix="set max_grad_norm"
    ),
    "zero3_save_16bit_model": _retired(*_TRUE, why="whole weights are saved under ZeRO-3"),
    "rdzv_backend": _retired("static", why="machines meet at a fixed address"),
    "same_network": _retired(*_TRUE, why="machines meet at main_process_ip"),
    "max_restarts": _retired("0", why="torchrun restarts without a checkpoint"),
    "enable_cpu_affinity": _retired(*_FALSE, why="processes are not pinned to cores"),
    "module": _retired(*_TRUE, why="the training program is the kit's own module"),
    "no_python": _retired(*_FALSE, why="the training program is the kit's own module"),
    "quiet": _retired(*_FALSE, *_TRUE, why="the launcher's own output goes into a log"),
    "monitor_interval": _retired("0.1", why="the launcher looks after its workers ten times a second"),
    "log_dir": _retired(*_FALSE, why="each rank's log lies in <output_dir>/_sft/logs"),
    "tee": _retired("0", *_FALSE, why="each rank's log lies in <output_dir>/_sft/logs"),
    "role": _retired("default", why="workers have one role"),
    "rdzv_conf": _retired(*_FALSE, why="machines meet at a fixed address"),
    "main_training_function": _retired("main", *_FALSE, why="it is for TPUs, which are not supported"),
}

STILL_FIELDS = ("hub_token", "fsdp_config")
"""Retired by the kit, though they are fields of today's SFTConfig."""

OWN_FILE = "write it into an accelerate file of your own and name that with accelerate_config"
FAMILIES = (
    (re.compile(r"(fsdp|deepspeed|zero3|offload)_\w+"), "it is a detail of one strategy", OWN_FILE),
    (re.compile(r"dynamo_\w+"), "compilation is the trainer's", "set torch_compile: true"),
    (re.compile(r"megatron_lm_\w+|use_megatron_lm"), "Megatron-LM is not supported", "remove it"),
    (re.compile(r"fp8_\w+"), "fp8 is not supported", "remove it"),
    (re.compile(r"(use_)?parallelism_config\w*"), "parallelism is the trainer's", "set parallelism_config"),
    (re.compile(r"(no_)?tpu(_\w+)?|vm|downcast_bf16"), "TPUs are not supported", "remove it"),
    (re.compile(r"aws_\w+|mpirun_\w+"), "only this machine and Slurm are launched on", "remove it"),
)
"""Whole families of accelerate's launch keys: pattern, why, fix."""


def retired(key: str) -> Retired | None:
    """Find what is known of a retired name."""
    if key in RETIRED:
        return RETIRED[key]
    for pattern, why, fix in FAMILIES:
        if pattern.fullmatch(key):
            return Retired(frozenset(_FALSE), why, fix, secret=key.startswith("aws_"))
    return None
