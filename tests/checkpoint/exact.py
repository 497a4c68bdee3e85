"""Runs whose continuation must equal the run that was never interrupted, bit by bit."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tiny
from tests.training.launching import FSDP_ON_CPU, Launched, launch, succeeded

STEPS, SAVED = 8, 4
STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
LORA = {
    "use_peft": True,
    "lora_r": 4,
    "lora_dropout": 0.1,
    "lora_target_modules": "all-linear",
    "learning_rate": 1e-2,
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 2e-3, "model_init_kwargs": {"attention_dropout": 0.1}},
    "lora": LORA,
    "qlora": {
        **LORA,
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_quant_storage": "float32",
    },
}


def write_data(directory: Path) -> Path:
    """Write rows that make an epoch of fewer steps than the runs train."""
    tiny.write_rows(directory / "train.jsonl", tiny.chats(72))
    return directory


def settings(model: Path, data: Path, method: str, strategy: str, **more: Any) -> dict[str, Any]:
    """Return a run with dropout, packing, accumulation, a schedule and an epoch's end between the steps."""
    return {
        "model_name_or_path": str(model),
        "dataset_name": str(data / "train.jsonl"),
        "assistant_only_loss": True,
        "bf16": False,
        "max_length": 128,
        "packing": True,
        "max_steps": STEPS,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": SAVED,
        "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": 1,
        "total_train_batch_size": 4,
        "report_to": "none",
        **METHODS[method],
        **more,
        "launch": {
            "device": "cpu",
            "strategy": strategy,
            "processes_per_node": 1 if strategy == "single" else 2,
            **more.get("launch", {}),
        },
    }


def environment(strategy: str) -> dict[str, str]:
    """Return what the strategy needs to be itself on a CPU."""
    return FSDP_ON_CPU_ENVIRONMENT if strategy == "fsdp2" else {}


FSDP_ON_CPU_ENVIRONMENT = {"PYTHONPATH": str(FSDP_ON_CPU)}


@dataclass(frozen=True)
class Twice:
    """A run, and its continuation from a checkpoint of it in an empty directory."""

    whole: Launched
    continued: Launched


def run_twice(place: Path, run: dict[str, Any], strategy: str) -> Twice:
    """Train to the end; then again from the checkpoint in the middle, given nothing else."""
    whole = succeeded(launch(place / "whole", run, environment=environment(strategy)))
    elsewhere = place / "given" / f"checkpoint-{SAVED}"
    shutil.copytree(whole.run.output_dir / f"checkpoint-{SAVED}", elsewhere)
    again = {**run, "resume_from_checkpoint": str(elsewhere)}
    return Twice(whole, succeeded(launch(place / "continued", again, environment=environment(strategy))))


def weights(directory: Path) -> dict[str, str]:
    """Hash the weights of a directory, by file."""
    files = sorted(directory.glob("*.safetensors"))
    assert files, f"no weights in {directory}"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
