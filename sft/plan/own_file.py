"""A user's own accelerate file, or DeepSpeed JSON, in place of a strategy: read, checked, and refused by name
where it holds what this kit does not run.

Writing its copy for a launch is `sft.launch.accelerate_file`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.config.kit import STRATEGY_ALIASES, Strategy
from sft.errors import Problem, UserError
from sft.plan.arrangement import Device, Offload
from sft.plan.document import Document, plain, read_document
from sft.plan.known_keys import unknown_accelerate_keys, unknown_deepspeed_keys
from sft.plan.own_rules import refused, section_of, truth

NAMES = {**{strategy.value: strategy for strategy in Strategy}, **STRATEGY_ALIASES}
"""TRL's names of its accelerate files, and ours: strategies, with no file behind them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFile:
    """What a file says about a launch. None where it does not say."""

    name: str
    """As it was given: a name of TRL's, or a path."""
    strategy: Strategy
    processes: int | None = None
    nodes: int | None = None
    machine_rank: int | None = None
    main_process_ip: str | None = None
    main_process_port: int | None = None
    gpu_ids: str | None = None
    mixed_precision: str | None = None
    device: Device | None = None
    offload: Offload | None = None
    accelerate: Document | None = None
    deepspeed: Document | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    """Where each of the above stands, as file:line."""

    @property
    def is_file(self) -> bool:
        """Whether there is a document, and not a name alone."""
        return self.accelerate is not None or self.deepspeed is not None

    def deepspeed_value(self, key: str, plugin_key: str | None = None) -> tuple[Any, str | None]:
        """Return one of DeepSpeed's settings and its place, from whichever file holds it."""
        if self.deepspeed is not None:
            value: Any = self.deepspeed.root
            for part in key.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            return value, self.deepspeed.where(tuple(key.split(".")))
        if self.accelerate is not None and plugin_key is not None:
            section = self.accelerate.root.get("deepspeed_config")
            value = section.get(plugin_key) if isinstance(section, Mapping) else None
            return value, self.accelerate.where(("deepspeed_config", plugin_key))
        return None, None


def read_own_file(name_or_path: str, where: str | None = None) -> OwnFile:
    """Read what `accelerate_config` names: a file, or one of TRL's names (a file wins, as with TRL).

    Raises:
        UserError: it is neither, or it cannot do what it says; all reasons together.
    """
    path = Path(name_or_path)
    if not path.is_file():
        return _named(name_or_path, where)
    document = read_document(path)
    if "distributed_type" not in document.root and "zero_optimization" in document.root:
        return _deepspeed_alone(name_or_path, document)
    problems = unknown_accelerate_keys(document) + refused(document)
    if problems:
        raise UserError.of(problems)
    return _read(name_or_path, document)


def _named(name: str, where: str | None) -> OwnFile:
    if name in NAMES:
        return OwnFile(name=name, strategy=NAMES[name])
    if name == "fsdp1":
        raise UserError(
            "FSDP version 1 does not resume exactly, and is not run", where, "use accelerate_config: fsdp2"
        )
    raise UserError(
        f"{name} is neither a file nor a name that TRL knows", where, f"a path, or one of: {', '.join(NAMES)}"
    )


def _deepspeed_alone(name: str, document: Document) -> OwnFile:
    problems = unknown_deepspeed_keys(document)
    strategy, offload = Strategy.ZERO2, None
    zero = section_of(document, "zero_optimization")
    try:
        strategy, offload = _zero(
            zero.get("stage", 0),
            _section_device(zero, "offload_optimizer"),
            _section_device(zero, "offload_param"),
            document.where(("zero_optimization", "stage")),
        )
    except UserError as error:
        problems += error.problems
    if strategy.zero_stage == 3 and not truth(zero.get("stage3_gather_16bit_weights_on_model_save")):
        problems.append(
            Problem(
                "without stage3_gather_16bit_weights_on_model_save ZeRO-3 leaves output_dir without a model",
                document.where(("zero_optimization", "stage3_gather_16bit_weights_on_model_save")),
                "set stage3_gather_16bit_weights_on_model_save: true",
            )
        )
    if problems:
        raise UserError.of(problems)
    places = {"strategy": document.where(("zero_optimization", "stage"))}
    return OwnFile(name=name, strategy=strategy, offload=offload, deepspeed=document, places=places)


def _section_device(zero: Mapping[str, Any], name: str) -> str:
    section = zero.get(name)
    return str(section.get("device", "none")) if isinstance(section, Mapping) else "none"


def _zero(stage: Any, optimizer: str, parameters: str, where: str) -> tuple[Strategy, Offload | None]:
    """Name the strategy of a ZeRO stage and its offloading."""
    if stage not in (1, 2, 3):
        raise UserError(f"ZeRO stage {stage} shards nothing", where, "use stage 1, 2 or 3, or MULTI_GPU")
    if stage < 3:
        return Strategy(f"zero{stage}"), None
    away = [device != "none" for device in (optimizer, parameters)]
    if not any(away):
        return Strategy.ZERO3, None
    return Strategy.ZERO3_OFFLOAD, "both" if all(away) else "optimizer" if away[0] else "parameters"


def _read(name: str, document: Document) -> OwnFile:
    root = plain(document.root)
    kind = str(root["distributed_type"])
    offload: Offload | None = None
    deepspeed: Document | None = None
    if kind == "DEEPSPEED":
        section = section_of(document, "deepspeed_config")
        if section.get("deepspeed_config_file"):
            inner = _deepspeed_alone(name, _beside(document, str(section["deepspeed_config_file"])))
            strategy, offload, deepspeed = inner.strategy, inner.offload, inner.deepspeed
        else:
            strategy, offload = _zero(
                section.get("zero_stage", 2),
                str(section.get("offload_optimizer_device", "none")),
                str(section.get("offload_param_device", "none")),
                document.where(("deepspeed_config", "zero_stage")),
            )
    elif kind == "FSDP":
        section = section_of(document, "fsdp_config")
        away = truth(section.get("fsdp_offload_params", section.get("offload_params")))
        strategy = Strategy.FSDP2_OFFLOAD if away else Strategy.FSDP2
    else:
        strategy = Strategy.SINGLE if kind == "NO" else Strategy.DDP
    count = root.get("num_processes", -1)
    precision = root.get("mixed_precision")
    gpu_ids = root.get("gpu_ids")
    single = strategy is Strategy.SINGLE
    keys = {"strategy": "distributed_type", "processes": "num_processes", "nodes": "num_machines"}
    keys |= {key: key for key in ("machine_rank", "main_process_ip", "main_process_port", "gpu_ids")}
    keys |= {"device": "use_cpu", "mixed_precision": "mixed_precision", "offload": "distributed_type"}
    return OwnFile(
        name=name,
        strategy=strategy,
        processes=1 if single else count if isinstance(count, int) and count > 0 else None,
        nodes=root.get("num_machines"),
        machine_rank=root.get("machine_rank"),
        main_process_ip=root.get("main_process_ip"),
        main_process_port=root.get("main_process_port"),
        gpu_ids=None if gpu_ids in (None, "all") else str(gpu_ids),
        mixed_precision=str(precision) if precision is not None else None,
        device="cpu" if truth(root.get("use_cpu")) else "gpu",
        offload=offload,
        accelerate=document,
        deepspeed=deepspeed,
        places={name: document.where((key,)) for name, key in keys.items()},
    )


def _beside(document: Document, named: str) -> Document:
    """Read the DeepSpeed file of an accelerate file: from here, as accelerate does, or from beside it."""
    beside = document.path.parent
    for path in (Path(named), beside / named, beside / Path(named).name):
        if path.is_file():
            return read_document(path)
    raise UserError(
        f"there is no DeepSpeed file {named}",
        document.where(("deepspeed_config", "deepspeed_config_file")),
        "give its path from where you launch, or from beside the accelerate file",
    )
