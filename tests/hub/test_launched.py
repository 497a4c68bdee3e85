"""A Hub that hangs, refuses or resets beside a whole launch: training does what it does without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.hub.journal import pending
from tests.loopback.hub import Hub
from tests.training.launching import launch, succeeded

REPO = "team/chat"


@pytest.mark.slow
def test_training_is_the_same_whatever_the_hub_does(
    hub: Hub, tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tiny_chats),
        "max_steps": 6,
        "save_steps": 2,
        "save_total_limit": 1,
        "logging_steps": 1,
        "max_length": 64,
        "use_cpu": True,
        "bf16": False,
        "launch": {"strategy": "single", "push_seconds": 4},
    }
    pushed = {"push_to_hub": True, "hub_model_id": REPO, "hub_strategy": "all_checkpoints"}
    alone = succeeded(launch(tmp_path / "alone", settings))
    faults: tuple[dict[str, Any], ...] = ({"hang": True}, {"status": 403}, {"reset": True})
    for number, fault in enumerate(faults):
        hub.faults.clear()
        hub.fault("POST /api/repos/create", **fault)
        launched = succeeded(
            launch(
                tmp_path / f"run{number}",
                {**settings, **pushed},
                environment=hub.environment(tmp_path / "home"),
            )
        )
        assert launched.losses == alone.losses
        weights = [one.run.output_dir / "model.safetensors" for one in (launched, alone)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        assert f"sft push {launched.run.output_dir}" in launched.stderr
        # All that was asked for waits, though one checkpoint is all that is left of three.
        assert [request.source for request in pending(launched.run)] == [
            "checkpoint-2",
            "checkpoint-4",
            "checkpoint-6",
            ".",
        ]
        assert [path.name for path in launched.run.output_dir.glob("checkpoint-*")] == ["checkpoint-6"]
    assert hub.repositories == {}
