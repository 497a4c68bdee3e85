"""A user's own accelerate file and the run file as one: the run file wins where it speaks of numbers and
machines; where the two say different things about what is run, that is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from sft.config.kit import LaunchConfig
from sft.config.loader import LoadedRun
from sft.errors import Problem, UserError
from sft.plan.batch import Batch
from sft.plan.own_file import OwnFile, read_own_file

COUNTS = ("num_processes", "gpus_per_node", "processes_per_node")


def with_own_file(loaded: LoadedRun) -> tuple[LoadedRun, OwnFile | None]:
    """Return the run with its accelerate file's launch settings filled in where it has none of its own.

    Raises:
        UserError: the file is refused, or contradicts the run file.
    """
    launch = loaded.config.launch
    if launch.accelerate_config is None:
        return loaded, None
    own = read_own_file(launch.accelerate_config, loaded.where("launch.accelerate_config"))
    given = launch.model_fields_set
    problems = []
    for key, theirs in (("strategy", own.strategy), ("offload", own.offload)):
        ours = getattr(launch, key)
        if key in given and ours is not None and theirs is not None and ours != theirs:
            problems.append(
                Problem(
                    f"launch.{key} {ours} and {own.name}, which is {theirs}, contradict each other",
                    loaded.where(f"launch.{key}"),
                    f"keep launch.{key} or launch.accelerate_config",
                )
            )
    if problems:
        raise UserError.of(problems)
    found: dict[str, Any] = {
        "strategy": own.strategy,
        "offload": own.offload,
        "nodes": own.nodes,
        "machine_rank": own.machine_rank,
        "main_process_ip": own.main_process_ip,
        "main_process_port": own.main_process_port,
        "gpu_ids": own.gpu_ids,
        "device": None if loaded.config.training.use_cpu else own.device,
        "num_processes": None if given.intersection(COUNTS) else own.processes,
    }
    update = {
        key: value
        for key, value in found.items()
        if value is not None and (key not in given or getattr(launch, key) is None)
    }
    places = {**own.places, "num_processes": own.places.get("processes", own.name)}
    sources = {f"launch.{key}": places.get(key, loaded.where("launch.accelerate_config")) for key in update}
    try:
        merged = LaunchConfig.model_validate({**launch.model_dump(exclude_unset=True), **update})
    except ValidationError as error:
        raise UserError.of(
            Problem(
                f"{item['loc'][0]}: {item['msg'].lower()}, not {item['input']!r}",
                places.get(str(item["loc"][0])),
            )
            for item in error.errors(include_url=False)
        ) from None
    filled = loaded.config.model_copy(update={"launch": merged})
    return replace(loaded, config=filled, sources={**loaded.sources, **sources}), own


def disagreements(loaded: LoadedRun, own: OwnFile, batch: Batch) -> list[Problem]:
    """Tell each number of the file that the trainer would refuse, or pass over, once the ranks are running."""
    training = loaded.config.training
    precision = loaded.config.mixed_precision
    problems = []
    if own.mixed_precision in ("bf16", "fp16") and own.mixed_precision != precision:
        problems.append(
            Problem(
                f"the file's mixed_precision {own.mixed_precision} would not take effect: the run is {precision}",
                own.places.get("mixed_precision"),
                f"set {own.mixed_precision}: true in the run file, or remove mixed_precision here",
            )
        )
    expected: list[tuple[str, str | None, Any, str]] = [
        ("gradient_accumulation_steps", "gradient_accumulation_steps", batch.accumulation, "the run's"),
        ("train_micro_batch_size_per_gpu", None, batch.micro_batch, "the run's per_device_train_batch_size"),
        ("train_batch_size", None, batch.total, "the run's rows a step"),
        ("gradient_clipping", "gradient_clipping", training.max_grad_norm, "the run's max_grad_norm"),
        ("bf16.enabled", None, precision == "bf16", "the run's bf16"),
        ("fp16.enabled", None, precision == "fp16", "the run's fp16"),
        ("optimizer.params.lr", None, training.learning_rate, "the run's learning_rate"),
        ("optimizer.params.weight_decay", None, training.weight_decay, "the run's weight_decay"),
    ]
    for key, plugin_key, ours, meaning in expected:
        value, where = own.deepspeed_value(key, plugin_key)
        if value is not None and value != "auto" and value != ours:
            problems.append(
                Problem(f"{key} {value} in the file is not {meaning}, {ours}", where, f'set {key}: "auto"')
            )
    return problems
