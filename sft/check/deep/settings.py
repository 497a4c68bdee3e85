"""The run file of a rehearsal: the user's own, with the settings changed that two steps on a CPU need.

Pure. Whatever is changed that the user may have meant to try is said.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sft.config.expand import escape
from sft.config.run import RunConfig
from sft.plan.joined import attention, joins_rows
from sft.plan.plan import Plan

STEPS = 2
FLOPS_A_STEP = 5e10
"""What one step may cost: some seconds on a few cores, which have no fast bfloat16."""
SLOW_FLOPS_A_STEP = 1e10
"""What a step may cost in bfloat16 on a CPU that has no instructions for it: some seconds too."""
SHORTEST, LONGEST = 64, 512
"""Tokens of a row, between which that decides."""
LONGEST_OF_ALL = 4096
"""Where the run file sets no max_length."""
DATA = (
    "dataset_name", "dataset_config", "datasets", "dataset_mixture", "dataset_train_split", "dataset_test_split",
    "dataset_streaming", "streaming", "test_split_size", "validation_fraction",
)  # fmt: skip
"""Where the rows lie: the rehearsal has its own, which are prepared."""
LEFT_OUT = (
    "model_revision", "output_dir", "data_cache", "num_train_epochs", "total_train_batch_size", "save_total_limit", "eval_delay", "resume_from_checkpoint",
    "ddp_backend", "parallelism_config", "eval_metrics", "launch",
)  # fmt: skip
"""What has no meaning in two steps on one machine."""
FIXED: dict[str, Any] = {
    "max_steps": STEPS, "save_strategy": "steps", "save_steps": 1, "logging_strategy": "steps", "logging_steps": 1,
    "warmup_steps": 0, "report_to": "none", "strict_data": False, "max_cut_answers": 1.0, "dataset_num_proc": 1,
}  # fmt: skip
NOT_ON_CPU = {
    "use_liger_kernel": False, "torch_compile": False, "tf32": None, "activation_offloading": False, "fp16": False,
    "fp16_full_eval": False,
}  # fmt: skip
"""What needs a GPU, or would compile for minutes."""
LIMITS = {
    "start": 300.0, "prepare": 120.0, "load": 300.0, "train": 300.0, "evaluate": 300.0, "save": 120.0, "export": 120.0,
    "leave": 60.0,
}  # fmt: skip
"""Seconds without progress, after which a rehearsal hangs."""


@dataclass(slots=True)
class Scale:
    """How large a rehearsal is.

    Attributes:
        lengths: of rows, in tokens: the first at which the rows still have something to learn is taken. None leaves
            max_length as it is.
        in_float32: what the run computes in bfloat16 is computed in float32, which this CPU is faster at.
    """

    processes: int
    micro_batch: int
    accumulation: int
    lengths: list[int] | None
    in_float32: bool = False


@dataclass(slots=True)
class Rehearsal:
    """A run file, and what is otherwise than in the user's."""

    settings: dict[str, Any]
    changes: list[str] = field(default_factory=list)


def scale_of(
    config: RunConfig, plan: Plan, *, numbers: int, processes: int, fast_bfloat16: bool = True
) -> Scale:
    """Choose how large a rehearsal is.

    Args:
        numbers: the weights of the cut that a token goes through.
        fast_bfloat16: this CPU has instructions for it.
    """
    micro, accumulation = min(plan.micro_batch, 2), min(plan.accumulation, 2)
    rows = processes * micro * accumulation
    # Source: arXiv:2001.08361, section 2.1: six operations a weight and token, forward and backward.
    length = int(FLOPS_A_STEP / (6 * max(1, numbers) * rows))
    length = max(SHORTEST, min(LONGEST, length))
    is_slow = 6 * numbers * rows * length > SLOW_FLOPS_A_STEP and not fast_bfloat16
    in_float32 = is_slow and config.mixed_precision != "no" and not config.is_quantized
    asked = config.training.max_length
    if asked is None and joins_rows(config):
        return Scale(processes, micro, accumulation, None, in_float32)  # padding_free takes no length
    longest = asked or LONGEST_OF_ALL
    lengths = [min(length, longest)]
    while lengths[-1] < longest:
        lengths.append(min(2 * lengths[-1], longest))
    return Scale(processes, micro, accumulation, lengths, in_float32)


def rehearsal_of(config: RunConfig, plan: Plan, scale: Scale) -> Rehearsal:
    """Change a run file to one that trains two steps on the CPU of this machine. Where things lie is left open."""
    kept = {key: value for key, value in config.settings().items() if key not in LEFT_OUT}
    made = Rehearsal({**kept, **FIXED})
    _batch(made, plan, scale)
    _evaluation(made, config)
    _cpu(made, config, in_float32=scale.in_float32)
    if plan.strategy.is_fsdp and config.mixed_precision != "no":
        made.settings["bf16"] = False
        made.changes.append("float32, as accelerate knows no mixed precision for FSDP on a CPU")
    elif scale.in_float32:
        made.settings |= {"bf16": False, "dtype": "float32"}
        made.changes.append("float32, as this CPU has no instructions for bfloat16")
    made.settings["launch"] = {
        "device": "cpu",
        "processes_per_node": scale.processes,
        "strategy": plan.strategy.value,
        "offload": plan.offload,
        "offline": True,  # whatever `env:` says
        "push_seconds": 20.0,
        "stop_grace_seconds": 5.0,
        "limits": LIMITS,
    }
    if config.launch.accelerate_config is not None:
        made.changes.append(f"launch.accelerate_config: the kit's own {plan.strategy.value}, not that file")
    if config.launch.wrap:
        made.changes.append("launch.wrap is left out")
    return made


def with_rows(settings: dict[str, Any], place: str) -> dict[str, Any]:
    """Name rows that lie in a directory of one file a split, in place of the run's own data."""
    own = {key: value for key, value in settings.items() if key not in DATA}
    named = {"dataset_name": escape(place), "dataset_train_split": "train"}
    return own | named | ({"dataset_test_split": "test"} if own.get("eval_strategy") == "steps" else {})


def without_packing(settings: dict[str, Any]) -> dict[str, Any]:
    """Pad instead: some models keep samples apart by kernels that a CPU has none of."""
    joined = ("packing", "padding_free", "eval_packing", "packing_strategy")
    return {key: value for key, value in settings.items() if key not in joined}


def _batch(made: Rehearsal, plan: Plan, scale: Scale) -> None:
    """Keep the kinds of a batch: several rows, accumulation."""
    made.settings["per_device_train_batch_size"] = scale.micro_batch
    made.settings["gradient_accumulation_steps"] = scale.accumulation
    if (scale.micro_batch, scale.accumulation) != (plan.micro_batch, plan.accumulation):
        made.changes.append(
            f"{scale.micro_batch} x {scale.accumulation} rows a process and step, not {plan.micro_batch} x"
            f" {plan.accumulation}"
        )
    if scale.processes != plan.processes:
        machines = f" on {plan.nodes} machines" if plan.nodes > 1 else ""
        made.changes.append(f"{scale.processes} processes on this machine, not {plan.processes}{machines}")
    workers = made.settings.get("dataloader_num_workers")
    if isinstance(workers, int) and workers > 1:
        made.settings["dataloader_num_workers"] = 1


def _evaluation(made: Rehearsal, config: RunConfig) -> None:
    if config.training.eval_strategy == "no":
        return
    made.settings |= {"eval_strategy": "steps", "eval_steps": 1}
    size = made.settings.get("per_device_eval_batch_size")
    made.settings["per_device_eval_batch_size"] = min(2, size) if isinstance(size, int) else 2


def _cpu(made: Rehearsal, config: RunConfig, *, in_float32: bool) -> None:
    """Replace what runs on GPUs only."""
    settings, changes = made.settings, made.changes
    for key, value in NOT_ON_CPU.items():
        if settings.get(key):
            settings[key] = value
            if key != "fp16":
                changes.append(f"{key} is off, which needs a GPU")
    if config.training.fp16 and not in_float32:
        settings["bf16"] = True
        changes.append("fp16: bf16 instead")
    for key in ("dtype", "bnb_4bit_quant_storage"):
        if settings.get(key) == "float16" and not in_float32:
            settings[key] = "bfloat16"
            changes.append(f"{key}: bfloat16, not float16")
    asked = attention(config)
    more = settings.get("model_init_kwargs")
    if isinstance(more, dict):
        settings["model_init_kwargs"] = {
            key: value
            for key, value in more.items()
            if key not in ("attn_implementation", "device_map", "max_memory")
        }
    if asked not in (None, "eager", "sdpa"):
        settings["attn_implementation"] = "sdpa"
        changes.append(f"attn_implementation: sdpa, not {asked}")
    elif asked is not None:
        settings["attn_implementation"] = asked
    optim = str(settings.get("optim", ""))
    if optim.startswith("galore_adamw_8bit"):
        settings["optim"] = optim.replace("_8bit", "")
        changes.append(f"optim: {settings['optim']}, not {optim}")
