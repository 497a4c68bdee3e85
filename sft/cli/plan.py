"""Say what a run will need: memory of a GPU line by line, whether it fits, and how long it takes. Without torch or a GPU.

sft plan run.yaml --gpu a100-40g --gpus-per-node 4 --nodes 2
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft.config.run import RunConfig
    from sft.plan.decide import Option
    from sft.plan.gpus import GpuModel
    from sft.plan.hardware import Hardware
    from sft.plan.plan import Plan
    from sft.plan.shape import Shape

TAKES_OVERRIDES = True
MARGIN = 1.25
"""What a scheduler is asked for beyond the estimate: evaluations, saves, a slower file system."""
START_SECONDS = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_file", metavar="RUN.yaml", type=Path, help="the run file; then --key value overrides"
    )
    parser.add_argument(
        "--gpu",
        default="auto",
        help="the GPU that it will run on: h100-80g, a100-40g, ..., or its memory as 24GiB [auto: this machine's]",
    )
    parser.add_argument("--gpus-per-node", type=int, metavar="N", help="GPUs on each machine")
    parser.add_argument("--nodes", type=int, metavar="N", help="machines")
    parser.add_argument("--json", action="store_true", help="print the plan and its bill as JSON")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    from sft.check.disk import look_at_disk
    from sft.check.place import model_shape
    from sft.config.loader import load_run
    from sft.errors import ExitCode, UserError
    from sft.plan.combinations import check_combinations
    from sft.plan.decide import decide
    from sft.plan.memory.host import host_bill
    from sft.plan.plan import make_plan

    words = [*extra]
    for name in ("gpus_per_node", "nodes"):
        asked = getattr(arguments, name)
        if asked is not None:
            words += [f"--{name}", str(asked)]
    loaded = load_run(arguments.run_file, words)
    config = loaded.config
    hardware, gpu = _machine(arguments.gpu, config)
    plan = make_plan(loaded, hardware, is_placed=False)
    shape = model_shape(config)
    if plan.device == "cpu":
        gpu = None
    plan, option, _ = decide(loaded, plan, shape, gpu)
    if broken := check_combinations(config, plan):
        raise UserError.of(broken)
    if shape is None or option is None:
        raise UserError(
            f"the shape of {config.model.model_name_or_path} is not known: there is no config.json of a decoder here",
            loaded.where("model_name_or_path"),
            "name a directory that save_pretrained wrote, or bring the model with `sft fetch`",
            exit_code=ExitCode.ENVIRONMENT,
        )
    host = host_bill(
        shape,
        option.estimate.job,
        option.estimate.held.trained,
        ranks=plan.processes_per_node,
        workers=config.training.dataloader_num_workers,
    )
    disk, _ = look_at_disk(loaded, plan)
    seconds = _seconds_to_finish(config, plan, option)
    if arguments.json:
        document = {
            **_document(plan, shape, option),
            "host": host.to_json(),
            "disk": disk,
            "seconds": seconds,
        }
        print(json.dumps(document, indent=2))
    else:
        print("\n".join(_lines(config.method, plan, shape, option)))
        if plan.device == "gpu":
            print("\n".join(["", *host.table()]))
        print("\n".join(["", *_time_lines(option, seconds), *disk]))
        print("\n".join(f"assumed: {line}" for line in option.estimate.assumed))
    bill = option.estimate.device
    if bill.fits or bill.capacity is None:
        return 0
    _tell_ways(shape, option, bill.capacity)
    return int(ExitCode.DOES_NOT_FIT)


def _machine(word: str, config: RunConfig) -> tuple[Hardware, GpuModel | None]:
    """Return the machine that is planned for: this one, or one as it is described."""
    from sft.plan.gpus import gpu_named, gpu_seen
    from sft.plan.hardware import asked_for, detect

    here, launch = detect(), config.launch
    word = launch.gpu if word == "auto" and launch.gpu is not None and not here.gpus else word
    if word == "auto" and here.gpus:
        return here, gpu_seen(here.gpu_names[0], min(here.gpu_memory_bytes))
    if word == "auto":
        return (asked_for(launch.gpus_per_node, here.cpu_cores) if launch.gpus_per_node else here), None
    return asked_for(launch.gpus_per_node or here.gpus or 1, here.cpu_cores), gpu_named(word)


def _document(plan: Plan, shape: Shape, option: Option) -> dict[str, Any]:
    time = option.time
    return {
        "plan": json.loads(plan.to_json()),
        "model": {"family": shape.family, "numbers": shape.numbers, "layers": len(shape.layers)},
        "trained": option.estimate.held.trained,
        "seconds_a_step": None if time is None else time.seconds,
        "tokens_a_step": None if time is None else time.tokens,
        "assumed": list(option.estimate.assumed),
    }


def _lines(method: str, plan: Plan, shape: Shape, option: Option) -> list[str]:
    from sft.units import billions

    return [
        f"{shape.family}: {billions(shape.numbers)} numbers, {len(shape.layers)} layers of {shape.hidden:,},"
        f" vocabulary {shape.vocabulary:,}",
        f"{method}: {billions(option.estimate.held.trained)} numbers are trained",
        *plan.describe(),
        "",
        *option.estimate.device.table(),
    ]


def _seconds_to_finish(config: RunConfig, plan: Plan, option: Option) -> float | None:
    """Return how long all steps take; None where the GPU's speed or the number of steps is not known."""
    from sft.check.local_rows import train_rows

    training = config.training
    steps: int | None = training.max_steps if training.max_steps > 0 else None
    if steps is None and not training.packing and (rows := train_rows(config)) is not None:
        steps = math.ceil(training.num_train_epochs * math.ceil(rows / plan.batch.total))
    if option.time is None or steps is None:
        return None
    return steps * option.time.seconds


def _time_lines(option: Option, seconds: float | None) -> list[str]:
    from sft.units import clock

    time = option.time
    if time is None:
        return ["time: not known without the GPU's speed: name it with --gpu"]
    lines = [
        f"time: {time.seconds:.2f} s a step, {time.tokens / time.seconds:,.0f} tokens a second, bound by {time.bound}",
        "      by a roofline: docs/memory.md says what it takes for granted",
    ]
    if seconds is not None:
        asked = math.ceil((seconds * MARGIN + START_SECONDS) / 900) * 900
        lines.append(f"      {clock(seconds)} for all steps; ask for launch.slurm.time: {clock(asked)}")
    return lines


def _tell_ways(shape: Shape, option: Option, capacity: int) -> None:
    from sft.plan.changes import ways_to_fit

    print("it does not fit; what would make it fit:", file=sys.stderr)
    ways = ways_to_fit(shape, option.estimate.job, capacity)
    for way in ways:
        print(f"  {way.line()}", file=sys.stderr)
    if not ways:
        print("  nothing that the kit knows: larger GPUs, or a smaller model", file=sys.stderr)
