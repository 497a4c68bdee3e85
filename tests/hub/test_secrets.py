"""Tokens go into one header of the requests to the Hub, and nowhere else: every byte that a run writes is searched."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sft.checkpoint.manifest import read_manifest, verify
from sft.hub.background import finish_delivery, start_delivery
from sft.hub.outbox import request_push
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from tests.hub.conftest import save_checkpoint, save_final, write_manifest
from tests.loopback.hub import TOKEN, Hub
from tests.loopback.wandb import WandbServer, wandb_server
from tests.training.launching import SFT, launch, succeeded

__all__ = ["wandb_server"]

WANDB_KEY = "feedc0de" * 5
SECRETS = (TOKEN, WANDB_KEY)


def holding_a_secret(directory: Path) -> list[str]:
    """Name the files under a directory that hold a secret in any place, or in their name."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    return [
        str(path)
        for path in files
        for secret in SECRETS
        if secret in str(path) or secret.encode() in path.read_bytes()
    ]


def assert_none_in(*texts: str | bytes | bytearray) -> None:
    for text in texts:
        data = text.encode() if isinstance(text, str) else bytes(text)
        assert [secret for secret in SECRETS if secret.encode() in data] == []


@pytest.fixture
def on_this_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """An environment with both secrets, and with the library's debugging on, which prints whole requests."""
    for name, value in hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_API_KEY", WANDB_KEY)
    monkeypatch.setenv("HF_DEBUG", "1")
    return hub


def test_a_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"\x00" + TOKEN.encode())
    (tmp_path / "two").write_text("harmless")
    assert holding_a_secret(tmp_path) == [str(tmp_path / "one")]


def test_no_secret_is_written_or_sent_by_a_push(on_this_hub: Hub, run: RunDirectory, tmp_path: Path) -> None:
    hub = on_this_hub
    write_manifest(save_checkpoint(run, 3), {"optimizer.pt"})
    settings = HubSettings(repo="team/chat", strategy="all_checkpoints")
    request_push(run, settings, "save", 3)
    # The Hub repeats what it was sent, as proxies do; then it is well.
    hub.fault("POST .*/commit/", status=400, headers={"X-Error-Message": f"bad: {TOKEN}"}, times=1)
    process = start_delivery(run)
    assert process is not None
    assert process.wait(60) == 4
    save_final(run)
    mine = [run.output_dir / "README.md", run.output_dir / ".env"]
    for path, secret in zip(mine, SECRETS, strict=True):
        path.write_text(f"# Mine\n{secret}\n", encoding="utf-8")
    request_push(run, settings, "end", 6)
    report = finish_delivery(run, timeout_seconds=60)
    assert report.problem is None
    pushed = subprocess.run(
        [*SFT, "push", str(run.output_dir), "--repo", "team/again"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert pushed.returncode == 0, pushed.stderr
    assert "README.md" not in hub.files("team/chat")
    for path in mine:
        path.unlink()
    assert len(hub.received) > 1000
    assert_none_in(hub.received, pushed.stdout, pushed.stderr, report.to_json())
    assert holding_a_secret(run.output_dir) == []


@pytest.mark.slow
def test_no_secret_is_written_or_sent_by_a_whole_launch(
    on_this_hub: Hub,
    wandb_server: WandbServer,
    tiny_model: Path,
    tiny_chats: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", WANDB_KEY)
    settings: dict[str, Any] = {
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tiny_chats),
        "max_steps": 4,
        "save_steps": 2,
        "logging_steps": 1,
        "max_length": 64,
        "use_cpu": True,
        "use_peft": True,
        "push_to_hub": True,
        "hub_model_id": "team/chat",
        "hub_strategy": "all_checkpoints",
        "report_to": "wandb",
        "run_name": "chat",
    }
    launched = succeeded(launch(tmp_path / "work" / "chat", settings))
    files = on_this_hub.files("team/chat")
    assert {"adapter_model.safetensors", "checkpoint-2/optimizer.pt", "checkpoint-4/optimizer.pt"} <= set(
        files
    )
    assert "training_args.bin" not in {name.rpartition("/")[2] for name in files}
    for step in (2, 4):  # a resume takes what the Hub holds
        fetched = tmp_path / "fetched" / f"checkpoint-{step}"
        for name, data in files.items():
            if name.startswith(f"checkpoint-{step}/"):
                target = fetched.parent / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        verify(fetched, read_manifest(fetched))
    (received,) = wandb_server.runs.values()
    assert sorted(received.values("train/loss")) == [1, 2, 3, 4]
    assert_none_in(on_this_hub.received, wandb_server.received, launched.stdout, launched.stderr)
    assert_none_in(json.dumps(launched.events))
    assert holding_a_secret(tmp_path / "work") == []
