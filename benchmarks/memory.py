"""The bill of memory against what real training steps hold, on the CPU, and beside the estimators of accelerate and DeepSpeed.

    python benchmarks/memory.py [--sharded ddp fsdp2 zero1 zero2 zero3 zero3_offload] [--plot docs/memory.svg]

Each run is trained for three steps with random weights while every tensor is counted (tests/plan/live_bytes.py): runs of one
process one after the other in one process, those of two processes in a launch each. The table goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
AT_ONCE = 10
"""Runs of one process that are measured in one process."""
BUCKET = 1_000_000
"""reduce_bucket_size of ZeRO-1 and 2 here: DeepSpeed's default would hide everything else of such small models."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sharded", nargs="*", default=None, help="strategies of two processes [all]")
    parser.add_argument("--single", type=int, default=None, help="how many runs of one process [all]")
    parser.add_argument("--plot", type=Path, help="write predicted against measured as a picture")
    parser.add_argument(
        "--keep", type=Path, help="keep what was measured here, and measure only what is missing"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = compare(Path(scratch), arguments)
    report(rows)
    if arguments.plot:
        plot(rows, arguments.plot)


def compare(scratch: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what is not measured yet, and make the bill of each run."""
    from tests import tiny
    from tests.plan import memory_cases

    tokenizer = tiny.write_tiny_model(scratch / "tokenizer")
    data = memory_cases.write_rows(scratch / "rows.jsonl")
    kept = arguments.keep or scratch / "measured.json"
    measured: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    single = {**memory_cases.cases(), **memory_cases.held_out(), **memory_cases.other_ways()}
    single = dict([*single.items()][: arguments.single])
    chosen = memory_cases.STRATEGIES if arguments.sharded is None else arguments.sharded
    groups: dict[str, dict[str, Mapping[str, Any]]] = {"single": single}
    for name in chosen:
        groups[name] = {**memory_cases.sharded(name), **memory_cases.sharded(name, is_held_out=True)}
    rows = []
    for strategy, group in groups.items():
        settings = {name: _settings(case, scratch, tokenizer, data, strategy) for name, case in group.items()}
        missing = [name for name in settings if name not in measured]
        at_once = AT_ONCE if strategy == "single" else 1
        for start in range(0, len(missing), at_once):
            batch = {name: settings[name] for name in missing[start : start + at_once]}
            measured |= _measure(scratch, strategy, batch)
            kept.write_text(json.dumps(measured))
        rows += [_row(name, one, scratch, measured[name]) for name, one in settings.items()]
    return rows


def _settings(
    case: Mapping[str, Any], scratch: Path, tokenizer: Path, data: Path, strategy: str
) -> dict[str, Any]:
    from tests.plan import memory_cases

    settings = dict(case)
    name = settings.pop("model")
    model = memory_cases.write_model(name, scratch / "models" / name, tokenizer)
    settings |= {
        "model_name_or_path": str(model),
        "dataset_name": str(data),
        "data_cache": str(scratch / "cache"),
    }
    if strategy != "single":
        accelerate = _accelerate_file(scratch, strategy)
        settings["launch"] = {"accelerate_config": str(accelerate), "device": "cpu", "num_processes": 2}
    return settings


def _accelerate_file(scratch: Path, strategy: str) -> Path:
    from sft.config.kit import Strategy
    from sft.launch.accelerate_file import deepspeed_settings, render
    from sft.plan.arrangement import Arrangement

    arrangement = Arrangement(strategy=Strategy(strategy), device="cpu", processes_per_node=2)
    place = scratch / f"{strategy}.json"
    settings = deepspeed_settings(arrangement) if arrangement.strategy.is_deepspeed else None
    if settings is not None and strategy in ("zero1", "zero2"):
        settings["zero_optimization"] |= {"reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    files = render(arrangement, command="benchmarks/memory.py", deepspeed_path=str(place), deepspeed=settings)
    if files.deepspeed_json:
        place.write_text(files.deepspeed_json)
    (scratch / f"{strategy}.yaml").write_text(files.accelerate_yaml)
    return scratch / f"{strategy}.yaml"


def _measure(scratch: Path, strategy: str, batch: Mapping[str, Any]) -> dict[str, Any]:
    cases, results = scratch / "cases.json", scratch / "results.json"
    launched = {name: {**one, "directory": str(scratch / "runs" / name)} for name, one in batch.items()}
    cases.write_text(json.dumps(launched))
    words = ["-m", "tests.plan.measured", str(cases), str(results)]
    command = [sys.executable, *words]
    if strategy != "single":
        accelerate = str(Path(sys.executable).with_name("accelerate"))
        command = [accelerate, "launch", "--config_file", str(scratch / f"{strategy}.yaml"), *words]
    path = os.pathsep.join([str(ROOT), str(ROOT / "sft" / "check" / "deep" / "fsdp_on_cpu")])
    environment = {
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
    }
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    files = [results] if strategy == "single" else [scratch / f"results.{rank}.json" for rank in range(2)]
    if not all(file.exists() for file in files):
        sys.exit(f"{strategy} was not measured:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    ranks = [json.loads(file.read_text()) for file in files]
    for file in files:
        file.unlink()
    # The rank that holds most counts.
    return {name: max((rank[name] for rank in ranks), key=lambda one: one.get("peak", 0)) for name in batch}


def _row(name: str, settings: Mapping[str, Any], scratch: Path, seen: Mapping[str, Any]) -> dict[str, Any]:
    from sft.check.place import model_shape
    from sft.plan.hardware import Hardware
    from sft.plan.memory.estimate import estimate
    from sft.plan.plan import make_plan
    from tests.training.here import read_settings

    if "peak" not in seen:
        sys.exit(f"{name} was not measured: {seen}")
    loaded = read_settings(scratch / "planned" / name, settings)
    shape = model_shape(loaded.config)
    assert shape is not None
    plan = make_plan(loaded, Hardware((), (), 2, 16 << 30))
    made = estimate(loaded.config, plan, shape, None)
    largest = sum(linear.inputs * linear.outputs for linear in shape.layers[0].into_network)
    return {
        "name": name,
        "predicted": made.held.peak,
        "at_most": made.device.at_most,
        "measured": seen["peak"],
        "accelerate": _accelerate(4 * shape.numbers, plan.mixed_precision),
        "deepspeed": _deepspeed(plan.strategy.value, shape.numbers, largest),
        "strategy": plan.strategy.value,
    }


def _accelerate(size: int, precision: str) -> int:
    """Return what `accelerate estimate-memory` says of training: for a batch of one, with Adam, of one process."""
    from accelerate.commands.estimate import estimate_training_usage

    named = "float32" if precision == "no" else "bfloat16"
    return int(max(estimate_training_usage(size, named).values()))


def _deepspeed(strategy: str, numbers: int, largest: int) -> int | None:
    """Return what DeepSpeed's own estimator says of the model's states: of one GPU where it does not offload."""
    if not strategy.startswith("zero"):
        return None
    if strategy.startswith("zero3"):
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as estimator

        offload = strategy == "zero3_offload"
        return int(estimator(numbers, largest, 2, 1, offload, offload, False, 1)[1])
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as second

    return int(second(numbers, 2, 1, False, 1)[1])


def report(rows: list[dict[str, Any]]) -> None:
    """Print a table by strategy, of the runs that formulas were looked at with and of those held out, and what is off most."""
    print("| strategy | runs | off at the median | at worst | under the bound | accelerate | DeepSpeed |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for is_held_out in (False, True):
        chosen = [row for row in rows if row["name"].startswith("held-") == is_held_out]
        for name in [*dict.fromkeys(row["strategy"] for row in chosen), "all"]:
            group = [row for row in chosen if name in ("all", row["strategy"])]
            if group:
                _tell(f"{name}, held out" if is_held_out else name, group)
    print()
    for row in sorted(rows, key=lambda row: -abs(_off(row)))[:12]:
        print(f"{row['name']}: {_off(row):+.2%} of {row['measured'] / 2**20:.1f} MiB")


def _off(row: Mapping[str, Any]) -> float:
    return float(row["predicted"] / row["measured"] - 1)


def _tell(name: str, group: list[dict[str, Any]]) -> None:
    off = [abs(_off(row)) for row in group]
    under = sum(row["measured"] <= row["at_most"] for row in group)
    others = [_median_off(group, key) for key in ("accelerate", "deepspeed")]
    cells = [
        name,
        len(group),
        f"{statistics.median(off):.2%}",
        f"{max(off):.2%}",
        f"{under} of {len(group)}",
        *others,
    ]
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def _median_off(group: list[dict[str, Any]], key: str) -> str:
    found = [abs(row[key] / row["measured"] - 1) for row in group if row[key] is not None]
    return f"{statistics.median(found):.0%}" if found else ""


def plot(rows: list[dict[str, Any]], place: Path) -> None:
    """Draw predicted against measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 6))
    for name in dict.fromkeys(row["strategy"] for row in rows):
        group = [row for row in rows if row["strategy"] == name]
        axes.scatter(
            [row["measured"] / 2**20 for row in group],
            [row["predicted"] / 2**20 for row in group],
            s=14,
            label=name,
        )
    ends = [
        min(row["measured"] for row in rows) / 2**20 * 0.9,
        max(row["measured"] for row in rows) / 2**20 * 1.1,
    ]
    axes.plot(ends, ends, linewidth=0.8, color="grey")
    axes.set(xlabel="measured, MiB", ylabel="predicted, MiB", xscale="log", yscale="log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(place, metadata={"Date": None})


if __name__ == "__main__":
    main()
