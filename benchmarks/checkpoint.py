"""What a checkpoint costs: the time that training stands still for it, and its bytes, beside TRL's plain save.

    python benchmarks/checkpoint.py --model MODEL [--methods full lora] [--strategies single ddp zero3] [--rounds 3]

Both are made by turns in one run, of the same trainer at neighbouring steps. The plain one is SFTTrainer's own
`_save_checkpoint`: weights, optimizer, schedule, random numbers, into the page cache, with no flush to the disk.
Ours is flushed, hashed and renamed when it counts as complete.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PLAIN_VARIABLE = "SFT_BENCHMARK_PLAIN"


class Measure:
    """A callback in name only: importing this file under a launch has saves made by turns."""


def _by_turns() -> None:
    import torch
    from transformers import Trainer, TrainerCallback
    from trl import SFTTrainer

    from sft.training.trainer import CountingTrainer

    global Measure
    Measure = type("Measure", (TrainerCallback,), {})  # type: ignore[misc]
    place = Path(os.environ[PLAIN_VARIABLE])

    def together() -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()

    def save(trainer: Any, model: Any, trial: Any) -> None:
        step = trainer.state.global_step
        trainer.saver.finish(trainer.args)
        together()
        began = time.perf_counter()
        if step % 2:
            own, trainer.args.output_dir = trainer.args.output_dir, str(place)
            # The kit's way to gather what ZeRO-3 shards is no part of the plain save.
            vars(trainer.deepspeed or trainer).pop("_zero3_consolidated_16bit_state_dict", None)
            trainer.save_model = partial(SFTTrainer.save_model, trainer)
            SFTTrainer._save_checkpoint(trainer, model, trial)
            del trainer.save_model
            trainer.args.output_dir = own
            together()
            record = {"kind": "plain", "standstill": time.perf_counter() - began}
            folder = place / f"checkpoint-{step}"
        else:
            trainer.saver.save(trainer, partial(Trainer._save_checkpoint, trainer, model, trial))
            together()
            record = {"kind": "ours", "standstill": time.perf_counter() - began}
            trainer.saver.finish(trainer.args)
            record["complete"] = time.perf_counter() - began
            folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
        if trainer.args.process_index == 0:
            record["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            record["trainable"] = sum(
                getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters() if p.requires_grad
            )
            with (place / "records.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            shutil.rmtree(folder)
        together()

    CountingTrainer._save_checkpoint = save


if PLAIN_VARIABLE in os.environ and __name__ != "__main__":
    _by_turns()


def measure(model: str, method: str, strategy: str, rounds: int) -> list[dict[str, Any]]:
    """Launch one run that saves by turns, and return its records; the first of each kind is left out as warm-up."""
    with tempfile.TemporaryDirectory(
        prefix="sft-benchmark-", dir=os.environ.get("TMPDIR", "/var/tmp")
    ) as place:
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"What is {n}?"},
                    {"role": "assistant", "content": f"It is {n}."},
                ]
            }
            for n in range(64)
        ]
        data = Path(place, "rows.jsonl")
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings: dict[str, Any] = {
            "model_name_or_path": model,
            "dataset_name": str(data),
            "output_dir": str(Path(place, "run")),
            "max_steps": 2 * (rounds + 1),
            "save_strategy": "steps",
            "save_steps": 1,
            "max_length": 64,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "report_to": "none",
            "bf16": False,
            "callbacks": [f"{Path(__file__).resolve()}:Measure"],
            "launch": {
                "device": "cpu",
                "strategy": strategy,
                "processes_per_node": 1 if strategy == "single" else 2,
            },
        }
        if method == "lora":
            settings |= {"use_peft": True, "lora_r": 32, "lora_target_modules": "all-linear"}
        run_file = Path(place, "run.yaml")
        with run_file.open("w") as stream:
            YAML(typ="safe").dump(settings, stream)
        plain = Path(place, "plain")
        plain.mkdir()
        environment = {**os.environ, PLAIN_VARIABLE: str(plain)}
        command = [sys.executable, "-m", "sft.cli.main", "launch", str(run_file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        records = [json.loads(line) for line in (plain / "records.jsonl").read_text().splitlines()]
    return records[2:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a local model directory")
    parser.add_argument("--methods", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--strategies", nargs="+", default=["single", "ddp", "zero3"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(
        "| method | strategy | plain, ms | ours, ms | ratio (range) | complete after, ms | plain, MB | ours, MB | must be, MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for method in arguments.methods:
        for strategy in arguments.strategies:
            records = measure(arguments.model, method, strategy, arguments.rounds)
            plain = [record for record in records if record["kind"] == "plain"]
            ours = [record for record in records if record["kind"] == "ours"]
            ratios = [b["standstill"] / a["standstill"] for a, b in zip(plain, ours, strict=True)]
            middle = {
                "plain": statistics.median(record["standstill"] for record in plain) * 1e3,
                "ours": statistics.median(record["standstill"] for record in ours) * 1e3,
                "complete": statistics.median(record["complete"] for record in ours) * 1e3,
            }
            # Weights and Adam's two moments, in float32.
            needed = 3 * 4 * ours[0]["trainable"] / 1e6
            print(
                f"| {method} | {strategy} | {middle['plain']:,.0f} | {middle['ours']:,.0f} |"
                f" {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {middle['complete']:,.0f} |"
                f" {plain[0]['bytes'] / 1e6:,.1f} | {ours[0]['bytes'] / 1e6:,.1f} | {needed:,.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
