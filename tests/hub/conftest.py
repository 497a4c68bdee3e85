"""A run directory without a training, and a delivery inside the test's own process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from sft.checkpoint.manifest import Manifest, hash_file
from sft.hub import client
from sft.hub.deliver import deliver
from sft.hub.report import DeliveryReport
from sft.rundir import RunDirectory
from tests.loopback.hub import TOKEN, Hub, hub

__all__ = ["hub"]

MODEL = {"config.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
RESUME = {"optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth", "trainer_state.json"}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
# What lies beside them, and must never leave.
PRIVATE = {
    "training_args.bin",
    "notes.txt",
    ".env",
    "deepspeed_config.json",
    "trainer_state.json",
    "optimizer.pt",
}


Push = Callable[..., DeliveryReport]


def write_files(directory: Path, names: set[str], label: str) -> None:
    """Write small files whose content tells where they come from."""
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"label": label}) if name.endswith("json") else f"{label} {name}"
        path.write_text(text, encoding="utf-8")


def write_manifest(directory: Path, names: set[str]) -> None:
    """Write the manifest that a save ends with."""
    manifest = Manifest(
        step=3,
        epoch=1.0,
        created=0.0,
        run_id="run",
        world_size=1,
        strategy="single",
        rows_per_step=8,
        settings={},
        data=None,
        versions={},
        trained_tokens=1,
        best_step=None,
        files={name: hash_file(directory / name) for name in names},
    )
    (directory / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")


def save_checkpoint(run: RunDirectory, step: int, names: set[str] | None = None) -> Path:
    """Save what the trainer saves at a step."""
    directory = run.output_dir / f"checkpoint-{step}"
    write_files(directory, (names or MODEL | TOKENIZER) | RESUME | {"training_args.bin"}, f"step {step}")
    # PEFT's draft card, which names the local base model.
    (directory / "README.md").write_text("---\nbase_model: /data/models/base\n---\n", encoding="utf-8")
    return directory


def save_final(run: RunDirectory, names: set[str] | None = None, label: str = "final") -> None:
    """Save what is in the output directory at the end, with all that lies beside it."""
    write_files(run.output_dir, (names or MODEL | TOKENIZER) | PRIVATE, label)
    write_files(run.kit, {"run.yaml", "logs/rank-0.log"}, label)
    write_files(run.merged, MODEL, label)
    write_files(run.output_dir / "runs" / "today", {"events.out.tfevents.1"}, label)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """An empty run directory."""
    directory = tmp_path / "chat-lora"
    directory.mkdir()
    return RunDirectory(directory)


@pytest.fixture
def push(hub: Hub, run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Push:
    """Deliver in this process to the loopback Hub, with retries that do not sleep long."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(client, "RETRY_WAITS_SECONDS", (0.01, 0.01, 0.01, 0.01))

    said: list[str] = []

    def push_now(*, run: RunDirectory = run, **options: object) -> DeliveryReport:
        return deliver(run, **{"token": TOKEN, "endpoint": hub.url, "say": said.append, **options})  # type: ignore[arg-type]

    return push_now
