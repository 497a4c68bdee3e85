"""`Plan`: what will run where. Made from a run file and a machine's hardware, without torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.config.kit import Strategy
from sft.config.loader import LoadedRun
from sft.errors import ExitCode, UserError
from sft.plan.arrangement import Arrangement, Device
from sft.plan.batch import Batch, divide
from sft.plan.hardware import Hardware
from sft.plan.joined import one_row_at_a_time
from sft.plan.own_launch import disagreements, with_own_file
from sft.plan.reach import require_reachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Arrangement):
    """The arrangement of one run. The ranks assert it at their start; it is kept as `_sft/plan.json`."""

    micro_batch: int
    accumulation: int
    threads_per_process: int | None = None
    accelerate_file: str | None = None
    """A file of the user's own, which stands in for the generated one."""
    joined_rows: int = 1
    """Rows a micro-batch that would have been joined into one; the accumulation holds them as a factor."""
    memory: dict[str, Any] | None = None
    """The bill of a GPU, or of a process on the CPU; None where the model's shape was not known."""
    choices: tuple[str, ...] = ()
    """What was left to the plan: what it took, and why it did not take the next ones."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was decided otherwise than the run file has it."""
        if self.joined_rows == 1:
            return ()
        return (
            f"per_device_train_batch_size {self.joined_rows} x gradient_accumulation_steps"
            f" {self.accumulation // self.joined_rows} is run as 1 x {self.accumulation}, the same rows and loss a"
            " step: without FlashAttention, rows that are joined cost the square of their length",
        )

    @property
    def batch(self) -> Batch:
        """The batch arithmetic."""
        return Batch(self.micro_batch, self.accumulation, self.processes)

    def to_json(self) -> str:
        """Return the plan as JSON, with the derived numbers beside the given ones."""
        derived = {
            "processes": self.processes,
            "total_train_batch_size": self.batch.total,
            "distributed_type": self.distributed_type,
        }
        return json.dumps({**dataclasses.asdict(self), **derived}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote."""
        fields = {field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {key: value for key, value in json.loads(text).items() if key in fields}
        values["choices"] = tuple(values.get("choices", ()))
        return cls(**{**values, "strategy": Strategy(values["strategy"])})

    def describe(self) -> list[str]:
        """Say in a few lines what will run."""
        device = "GPU" if self.device == "gpu" else "CPU process"
        plural = "" if self.processes == 1 else "es" if self.device == "cpu" else "s"
        where = f" on {self.nodes} machines" if self.nodes > 1 else ""
        batch = self.batch
        precision = "no mixed" if self.mixed_precision == "no" else self.mixed_precision
        return [
            f"{self.strategy.value} on {self.processes} {device}{plural}{where}, {precision} precision",
            f"{batch.total} rows a step = per_device_train_batch_size {batch.micro_batch} x "
            f"gradient_accumulation_steps {batch.accumulation} x {batch.processes} "
            f"{'process' if batch.processes == 1 else 'processes'}",
            *self.choices,
        ]


def _device(loaded: LoadedRun, hardware: Hardware) -> Device:
    launch = loaded.config.launch
    if loaded.config.training.use_cpu or launch.device == "cpu":
        return "cpu"
    wants_gpu = launch.device == "gpu" or launch.gpus_per_node is not None
    if wants_gpu and hardware.gpus == 0:
        key = "launch.gpus_per_node" if launch.gpus_per_node is not None else "launch.device"
        raise UserError(
            "GPUs are asked for and this machine shows none",
            where=loaded.where(key),
            fix="run on a GPU node (`nvidia-smi` lists them), or set launch.device: cpu",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return "gpu" if hardware.gpus else "cpu"


def _per_node(loaded: LoadedRun, hardware: Hardware, device: Device) -> int:
    launch = loaded.config.launch
    available = len(launch.gpu_ids.split(",")) if launch.gpu_ids not in (None, "all") else hardware.gpus
    if launch.num_processes is not None:
        if launch.num_processes % launch.nodes:
            raise UserError(
                f"num_processes {launch.num_processes} is not a multiple of {launch.nodes} machines",
                where=loaded.where("launch.num_processes"),
                fix="give every machine the same number",
            )
        count = launch.num_processes // launch.nodes
    elif device == "cpu":
        if launch.gpus_per_node is not None and launch.processes_per_node is None:
            count = launch.gpus_per_node
        else:
            count = launch.processes_per_node or 1
    else:
        count = launch.gpus_per_node or launch.processes_per_node or available
        if launch.strategy is Strategy.SINGLE and launch.gpus_per_node is None:
            count = 1
    if device == "gpu" and count > available:
        asked = ("launch.num_processes", "launch.gpus_per_node", "launch.processes_per_node")
        key = next((key for key in asked if key in loaded.sources), "launch.accelerate_config")
        fix = f"set {asked[0] if key not in asked else key}: {available * (1 if key in asked[1:] else launch.nodes)}"
        raise UserError(
            f"{count} GPUs on each machine are asked for and this one shows {available}",
            where=loaded.where(key),
            fix=f"{fix}, or name them in gpu_ids" if available < hardware.gpus else fix,
            exit_code=ExitCode.ENVIRONMENT,
        )
    return count


def _strategy(loaded: LoadedRun, processes: int) -> Strategy:
    chosen = loaded.config.launch.strategy
    if chosen is None:
        return Strategy.SINGLE if processes == 1 else Strategy.DDP
    if chosen == "auto":
        if processes == 1:
            return Strategy.SINGLE
        # Sharding pays for the full optimizer state; an adapter's is small, and 4-bit weights are a quarter already.
        return Strategy.ZERO3 if loaded.config.method == "full" else Strategy.DDP
    strategy = Strategy(chosen)
    if strategy is Strategy.SINGLE and processes > 1:
        raise UserError(
            f"strategy single is one process, not {processes}",
            where=loaded.where("launch.strategy"),
            fix="set launch.strategy: ddp, or one process",
        )
    if strategy is Strategy.DDP and processes == 1:
        return Strategy.SINGLE
    return strategy


def make_plan(loaded: LoadedRun, hardware: Hardware, *, is_placed: bool = True) -> Plan:
    """Decide the arrangement of a run on machines like this one.

    Args:
        is_placed: whether the machines are known already; a batch job learns of them when it starts.

    Raises:
        UserError: what is asked for cannot be had exactly: GPUs, processes, batch; or a place cannot be looked at.
    """
    require_reachable(loaded)
    loaded, own = with_own_file(loaded)
    config = loaded.config
    launch = config.launch
    device = _device(loaded, hardware)
    per_node = _per_node(loaded, hardware, device)
    processes = per_node * launch.nodes
    strategy = _strategy(loaded, processes)
    if is_placed and launch.nodes > 1 and launch.main_process_ip is None:
        raise UserError(
            f"{launch.nodes} machines need to know where machine 0 is",
            where=loaded.where("launch.nodes"),
            fix="submit it with --on slurm, which finds out; or set launch.main_process_ip and launch.main_process_port,"
            " and launch.machine_rank on each machine",
        )
    given = config.training.model_fields_set
    if config.kit.micro_batch == "auto" and config.kit.total_train_batch_size is None:
        raise UserError(
            "per_device_train_batch_size: auto needs to know how many rows a step is to have",
            where=loaded.where("micro_batch"),
            fix="set total_train_batch_size, which stays as it is whatever the plan takes",
        )
    batch = divide(
        config.kit.total_train_batch_size,
        config.training.per_device_train_batch_size if "per_device_train_batch_size" in given else None,
        config.training.gradient_accumulation_steps if "gradient_accumulation_steps" in given else None,
        processes,
        where=loaded.where("total_train_batch_size"),
        device_word="GPUs" if device == "gpu" else "processes",
    )
    # The user's file is held against the batch as it was asked for; its copy gets the numbers of the launch.
    problems = disagreements(loaded, own, batch) if own else []
    if problems:
        raise UserError.of(problems)
    asked, batch = batch, one_row_at_a_time(config, batch)
    threads = launch.threads_per_process
    if threads is None and device == "cpu":
        threads = max(1, hardware.cpu_cores // per_node)
    return Plan(
        strategy=strategy,
        device=device,
        nodes=launch.nodes,
        processes_per_node=per_node,
        mixed_precision=config.mixed_precision,
        micro_batch=batch.micro_batch,
        accumulation=batch.accumulation,
        machine_rank=launch.machine_rank,
        main_process_ip=launch.main_process_ip,
        main_process_port=launch.main_process_port,
        gpu_ids=launch.gpu_ids,
        threads_per_process=threads,
        offload=launch.offload,
        accelerate_file=own.name if own and own.is_file else None,
        joined_rows=asked.micro_batch // batch.micro_batch,
    )


def read_plan(path: Path) -> Plan:
    """Read the plan of a run directory."""
    return Plan.from_json(path.read_text(encoding="utf-8"))
