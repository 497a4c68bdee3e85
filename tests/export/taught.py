"""Runs that have learned a few chats by heart, so that what they answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import tiny
from tests.training.here import read_settings, train_here

CHATS = tiny.chats(5)
"""Five: no number of processes divides them but one and five."""
BEFORE = tiny.chats(10)[5:]
"""What the run of every weight has learned, which is the base of the LoRA run: random weights cannot be talked into
anything by an adapter, since the head that they share with the embeddings stays as weak as it began."""
BY_HEART = {
    "use_cpu": True, "bf16": False, "assistant_only_loss": True, "max_length": 128, "save_strategy": "no",
    "per_device_train_batch_size": 5, "lr_scheduler_type": "constant", "logging_steps": 50,
}  # fmt: skip
LORA = {
    "use_peft": True, "lora_target_modules": "all-linear", "lora_r": 32, "lora_alpha": 64, "lora_dropout": 0.0,
}  # fmt: skip


def question(row: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    """Return a chat up to its answer."""
    return row["messages"][:-1]


def answer(row: dict[str, list[dict[str, str]]]) -> str:
    """Return what was to be learned."""
    return row["messages"][-1]["content"]


def write_data(directory: Path, rows: list[dict[str, Any]], test: list[dict[str, Any]] | None = None) -> Path:
    """Write a data set of two splits, by default with the same rows in both."""
    directory.mkdir(parents=True)
    tiny.write_rows(directory / "train.jsonl", rows)
    tiny.write_rows(directory / "test.jsonl", rows if test is None else test)
    return directory


def write_model_that_ends_otherwise(directory: Path) -> Path:
    """Save a tiny model whose end of sequence is not what its chat template ends a turn with, as base models have it."""
    tiny.write_tiny_model(directory)
    for name, value in (
        ("config.json", 0),
        ("generation_config.json", 0),
        ("tokenizer_config.json", "<|endoftext|>"),
    ):
        path = directory / name
        fields = json.loads(path.read_text())
        key = "eos_token" if name.startswith("tokenizer") else "eos_token_id"
        path.write_text(json.dumps(fields | {key: value}))
    return directory


def teach(directory: Path, model: Path, data: Path, **settings: Any) -> Path:
    """Train until every answer is known by heart, and return the run's directory as a launch leaves it."""
    whole = {"model_name_or_path": str(model), "dataset_name": str(data), **BY_HEART, **settings}
    train_here(directory, whole)
    run = directory / "out"
    resolved = read_settings(directory / "again", {**whole, "output_dir": str(run)}).config.settings()
    (run / "_sft" / "run.yaml").write_text(json.dumps(resolved))
    return run
