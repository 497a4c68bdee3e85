"""The settings that the runs of these tests share, and the way to train with them here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.here import Trained, train_here

Train = Callable[..., Trained]


@pytest.fixture
def settings(tiny_model: Path, tiny_chats: Path) -> dict[str, Any]:
    """Three steps of four chats in float32 on the CPU."""
    return {
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tiny_chats),
        "use_cpu": True,
        "bf16": False,
        "max_length": 128,
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
    }


@pytest.fixture
def train(settings: dict[str, Any], tmp_path: Path) -> Train:
    """Train with the shared settings and the ones given; each run has a directory of its own."""
    count = 0

    def run(*words: str, **more: Any) -> Trained:
        nonlocal count
        count += 1
        return train_here(tmp_path / f"run{count}", {**settings, **more}, *words)

    return run
