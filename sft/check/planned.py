"""All that `sft plan` tells of a run, for people and for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sft.check.amount import Amount, amount_of
from sft.check.answers import held_from_memory
from sft.check.cluster import host_bytes_of
from sft.check.disk import copied_bytes, look_at_disk
from sft.check.find_model import find_model
from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.errors import UserError
from sft.plan.changes import Way, ways_to_fit
from sft.plan.combinations import check_combinations
from sft.plan.decide import Option, decide
from sft.plan.gpus import GpuModel, gpu_named, gpu_seen
from sft.plan.hardware import Hardware, asked_for, detect
from sft.plan.memory.bill import Bill
from sft.plan.memory.host import host_bill
from sft.plan.plan import Plan, make_plan
from sft.plan.roofline import StepTime, step_time
from sft.plan.shape import Shape
from sft.units import billions, clock

MARGIN = 1.25
"""What a scheduler is asked for beyond the estimate: evaluations, saves, a slower file system."""
START_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A run as it would be launched, and what it needs.

    Attributes:
        host: of machine 0's own memory.
        usual: a step of rows as long as the data has them; the option's own time is of rows as long as max_length.
        ways: what would make it fit, where it does not.
    """

    config: RunConfig
    plan: Plan
    shape: Shape
    gpu: GpuModel | None
    option: Option
    host: Bill
    disk: tuple[str, ...]
    notes: tuple[str, ...]
    amount: Amount | None
    usual: StepTime | None
    ways: tuple[Way, ...]

    @property
    def fits(self) -> bool:
        """Whether the bound of a GPU's bill is within what there is."""
        return self.option.estimate.device.fits

    @property
    def seconds(self) -> float | None:
        """How long all steps take."""
        time = self.usual or self.option.time
        return self.amount.steps * time.seconds if self.amount and time else None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types."""
        time, seconds, held = self.option.time, self.seconds, self.option.estimate.held
        return {
            "plan": json.loads(self.plan.to_json()),
            "model": {
                "family": self.shape.family,
                "numbers": self.shape.numbers,
                "layers": len(self.shape.layers),
            },
            "gpu": None if self.gpu is None else dataclasses.asdict(self.gpu),
            "trained": held.trained,
            "stages": held.stages,
            "host": self.host.to_json(),
            "ways_to_fit": [way.to_json() for way in self.ways],
            "amount": self.amount and dataclasses.asdict(self.amount),
            "seconds_a_step": None if self.usual is None else self.usual.seconds,
            "seconds_a_step_at_most": None if time is None else time.seconds,
            "tokens_a_step_at_most": None if time is None else time.tokens,
            "seconds": seconds,
            "time_limit": None if seconds is None else clock(_to_ask_for(seconds)),
            "disk": list(self.disk),
            "notes": list(self.notes),
            "assumed": list(self.option.estimate.assumed),
        }

    def lines(self) -> list[str]:
        """Say it for people."""
        shape, estimate = self.shape, self.option.estimate
        return [
            f"{shape.family}: {billions(shape.numbers)} numbers, {len(shape.layers)} layers of {shape.hidden:,},"
            f" vocabulary {shape.vocabulary:,}",
            f"{self.config.method}: {billions(estimate.held.trained)} numbers are trained",
            *self.plan.describe(),
            "",
            *estimate.device.table(),
            *estimate.stages_lines(),
            *(["", *self.host.table()] if self.plan.device == "gpu" else []),
            "",
            *self._time_lines(),
            *self.disk,
            *self.notes,
            *(f"assumed: {line}" for line in estimate.assumed),
        ]

    def _time_lines(self) -> list[str]:
        longest = self.option.time
        lines = [f"data: {self.amount.line()}"] if self.amount is not None else []
        if self.plan.device == "cpu":
            return [*lines, "time: not known on a CPU"]
        if longest is None:
            return [*lines, "time: not known without the GPU's speed: name it with --gpu"]
        time = self.usual or longest
        told = f"time: {time.seconds:.2f} s a step, {time.tokens / time.seconds:,.0f} tokens a second, bound by {time.bound}"
        if self.usual is not None and longest.seconds > self.usual.seconds * 1.05:
            told += f"; {longest.seconds:.2f} s if all rows were as long as max_length"
        lines += [told, "time: by a roofline; docs/memory.md says what it takes for granted"]
        if self.seconds is not None:
            asked = clock(_to_ask_for(self.seconds))
            lines.append(f"time: {clock(self.seconds)} for all steps; ask for launch.time_limit: {asked}")
        return lines


def _to_ask_for(seconds: float) -> int:
    """Round what a scheduler is asked for up to a quarter of an hour."""
    return math.ceil((seconds * MARGIN + START_SECONDS) / 900) * 900


def plan_run(loaded: LoadedRun, gpu_word: str, environment: Mapping[str, str]) -> Planned:
    """Plan a run, and look at what it needs.

    Args:
        gpu_word: a GPU's name, an amount of memory, or auto for this machine's.

    Raises:
        UserError: nothing can be planned: what is asked for cannot be had, contradicts itself, or nobody knows the model.
    """
    config = loaded.config
    hardware, gpu = _machine(gpu_word, loaded)
    plan = make_plan(loaded, hardware, is_placed=False)
    if plan.device == "cpu":
        gpu = None
    found = find_model(loaded, environment)
    shape, host_bytes = found.shape, host_bytes_of(hardware, config)
    plan, option, _ = decide(loaded, plan, shape, gpu, host_bytes, held_from_memory(config))
    if broken := check_combinations(config, plan):
        raise UserError.of(broken)
    assert option is not None, "with a shape there is a bill"
    if config.model.use_peft and not option.estimate.held.trained:
        raise UserError(
            f"lora_target_modules: {config.model.lora_target_modules} matches no module of the model, and nothing is trained",
            loaded.where("lora_target_modules"),
            "use all-linear; `sft check` names the modules that there are",
        )
    amount = amount_of(loaded, plan)
    ways = (
        ways_to_fit(config, plan, shape, gpu) if gpu is not None and not option.estimate.device.fits else []
    )
    return Planned(
        config=config,
        plan=plan,
        shape=shape,
        gpu=gpu,
        option=option,
        host=host_bill(
            shape,
            option.estimate.job,
            option.estimate.held,
            ranks=plan.processes_per_node,
            workers=config.training.dataloader_num_workers,
            saved=copied_bytes(config, plan, shape.tensors, option.estimate.held.trained),
            capacity=host_bytes,
        ),
        disk=tuple(
            look_at_disk(loaded, plan, tensors=found.tensors, trained=option.estimate.held.trained)[0]
        ),
        notes=() if found.told is None else (found.told,),
        amount=amount,
        usual=_usual_step(plan, shape, option, gpu, amount),
        ways=tuple(ways),
    )


def _machine(word: str, loaded: LoadedRun) -> tuple[Hardware, GpuModel | None]:
    """Return the machine that is planned for: this one, or one as it is described."""
    here, launch = detect(), loaded.config.launch
    where = "--gpu"
    if word == "auto" and launch.gpu is not None and not here.gpus:
        word, where = launch.gpu, loaded.where("launch.gpu")
    if word == "auto" and here.gpus:
        return here, gpu_seen(here.gpu_names[0], min(here.gpu_memory_bytes))
    if word == "auto":
        return (asked_for(launch.gpus_per_node, here.cpu_cores) if launch.gpus_per_node else here), None
    return asked_for(launch.gpus_per_node or here.gpus or 1, here.cpu_cores), gpu_named(word, where)


def _usual_step(
    plan: Plan, shape: Shape, option: Option, gpu: GpuModel | None, amount: Amount | None
) -> StepTime | None:
    """Estimate a step of rows as long as the data has them; None where that, or the GPU's speed, is not known."""
    if gpu is None or option.time is None or amount is None or amount.positions is None:
        return None
    job = option.estimate.job
    usual = dataclasses.replace(job, length=min(job.length, math.ceil(amount.positions)))
    return step_time(shape, usual, gpu, nodes=plan.nodes, trained=option.estimate.held.trained)
