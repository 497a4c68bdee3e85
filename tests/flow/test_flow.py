"""The flow on a real Metaflow with its local datastore: killed and retried, without the Hub, refused for good."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.flow.flows import Flow, write_run_file
from tests.loopback.files import FilesHub

REPOSITORY = "team/tiny"
HOLD = """
import os, time
from pathlib import Path
import torch
from transformers import TrainerCallback

HERE = Path(__file__).parent

class Hold(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **_):
        if state.global_step == 6:
            (HERE / "held").write_text(str(os.getpid()))
            while (HERE / "hold").exists():
                time.sleep(0.05)
            if (HERE / "no-memory").exists():
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if (HERE / "no-number").exists():
                next(one for one in model.parameters() if one.requires_grad).data.fill_(float("nan"))
"""
Start = Callable[..., Flow]


def settings(place: Path, model: str, data: Path) -> dict[str, Any]:
    (place / "hold.py").write_text(HOLD)
    return {
        "model_name_or_path": model,
        "dataset_name": str(data),
        "validation_fraction": 0.1,
        "use_peft": True,
        "lora_dropout": 0.1,
        "use_cpu": True,
        "bf16": False,
        "assistant_only_loss": True,
        "learning_rate": 1e-3,
        "max_steps": 8,
        "save_steps": 2,
        "save_total_limit": 3,
        "eval_strategy": "steps",
        "eval_steps": 2,
        # The loss falls, so that the best by this is the first evaluation, from before every kill.
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": True,
        "logging_steps": 1,
        "max_length": 64,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "callbacks": [f"{place / 'hold.py'}:Hold"],
        "output_dir": "runs/tiny",
    }


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Flow] = []

    def begin(*words: str, place: Path = tmp_path, **how: Any) -> Flow:
        started.append(Flow(place, *words, **how))
        return started[-1]

    yield begin
    for flow in started:
        flow.kill()


@dataclass(frozen=True)
class Pair:
    """A run that was killed in its training, with the Hub, and the same one left alone, without it."""

    killed: Flow
    alone: Flow
    hub: FilesHub
    bodies: int
    place: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_chats: Path) -> Iterator[Pair]:
    place = tmp_path_factory.mktemp("flow")
    run_file = write_run_file(place / "run.yaml", settings(place, REPOSITORY, tiny_chats))
    started: list[Flow] = []
    hub = FilesHub()
    hub.put_directory(REPOSITORY, tiny_model)
    try:
        with hub:
            more = hub.environment(place / "home", token=None)
            (place / "hold").touch()
            killed = Flow(place, "run", "--config-file", str(run_file), more=more)
            started.append(killed)
            killed.until(r"kept checkpoint-6 in the datastore")
            while not (place / "held").exists():
                time.sleep(0.05)
            bodies = len(hub.bodies)
            os.kill(killed.pid_of("train"), signal.SIGKILL)
            (place / "hold").unlink()
            killed.end()
        # The Hub is gone.
        alone = Flow(place, "run", "--config-file", str(run_file), more=more)
        started.append(alone)
        alone.end()
        yield Pair(killed, alone, hub, bodies, place)
    finally:
        for flow in started:
            flow.kill()


@pytest.fixture(scope="module")
def found(pair: Pair) -> tuple[dict[str, Any], dict[str, Any]]:
    return pair.killed.read(pair.place / "of-killed"), pair.alone.read(pair.place / "of-alone")


def _weights(checkpoint: dict[str, Any]) -> bytes:
    return (Path(checkpoint["url"]) / "adapter_model.safetensors").read_bytes()


def _of_step(found: dict[str, Any], step: int) -> dict[str, Any]:
    told = [one for one in found["checkpoints"] if one["metadata"].get("step") == step]
    assert len(told) == 1, found["checkpoints"]
    return told[0]


def test_a_killed_step_goes_on_from_the_datastore_to_the_same_weights(pair: Pair, found: Any) -> None:
    killed, alone = found
    said = pair.killed.said
    assert killed["attempts"] == 2
    assert alone["attempts"] == 1
    assert "restored checkpoint-6 from the datastore" in said
    assert "continuing from step 6: checkpoint-6" in said
    assert _weights(_of_step(killed, 8)) == _weights(_of_step(alone, 8))
    assert _weights(_of_step(killed, 8)) != _weights(_of_step(killed, 6))


def test_the_best_adapter_from_before_the_kill_survives(pair: Pair, found: Any) -> None:
    killed, alone = found
    best = _weights(_of_step(killed, 2))
    assert _of_step(killed, 8)["metadata"]["best_step"] == 2
    assert "restored checkpoint-2 from the datastore" in pair.killed.said
    for name in ("of-killed", "of-alone"):
        assert (pair.place / name / "adapter" / "adapter_model.safetensors").read_bytes() == best
    assert alone["metrics"]["step"] == killed["metrics"]["step"] == 8


def test_every_checkpoint_is_kept_with_step_epoch_and_loss(found: Any) -> None:
    for run, attempts in zip(found, ([0, 0, 0, 1], [0, 0, 0, 0]), strict=True):
        told = [_of_step(run, step) for step in (2, 4, 6, 8)]
        assert [one["attempt"] for one in told] == attempts
        metadata = [one["metadata"] for one in told]
        assert [one["epoch"] for one in metadata] == sorted({one["epoch"] for one in metadata})
        losses = dict(run["results"]["losses"])
        assert [one["loss"] for one in metadata] == [losses[step] for step in (2, 4, 6, 8)]
    assert found[0]["results"]["losses"] == found[1]["results"]["losses"]


def test_the_second_run_downloads_nothing(pair: Pair, found: Any) -> None:
    assert pair.bodies > 0
    assert [request for request in pair.hub.bodies if request.endswith("model.safetensors")] == [
        f"GET /{REPOSITORY}/resolve/{pair.hub.repositories[REPOSITORY].branches['main'].head}/model.safetensors"
    ]
    assert len(pair.hub.bodies) == pair.bodies
    assert found[0]["base"]["key"] == found[1]["base"]["key"]


def test_what_is_left_names_the_model_and_no_directory_of_a_step(pair: Pair, found: Any) -> None:
    adapter = pair.place / "of-alone" / "adapter"
    assert f'"base_model_name_or_path": "{REPOSITORY}"' in (adapter / "adapter_config.json").read_text()
    assert f'base_model: "{REPOSITORY}"' in (adapter / "README.md").read_text()
    assert (pair.place / "of-alone" / "model" / "model.safetensors").stat().st_size > 100_000
    assert found[1]["run_file"].startswith("# The resolved run file of: sft launch ")
    assert list((pair.place / "sft-flow").glob("*/*")) == []


def test_the_card_shows_settings_losses_plan_and_samples(pair: Pair, found: Any) -> None:
    page = pair.killed.card(pair.place / "card.html")
    for text in ("Plan and measurement", "Samples", "Settings", "Checkpoints in the datastore", "vega-lite"):
        assert text in page, text
    assert "no samples" not in page


def test_a_repository_of_pickles_is_told_and_nothing_of_it_is_kept(
    start: Start, tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    run_file = write_run_file(tmp_path / "run.yaml", settings(tmp_path, "team/old", tiny_chats))
    with FilesHub() as hub:
        files = {path.name: path.read_bytes() for path in tiny_model.glob("*.json")}
        hub.put("team/old", {**files, "pytorch_model.bin": b"pickle"})
        said = start("run", "--config-file", str(run_file), more=hub.environment(tmp_path / "home")).end(1)
    assert (
        "team/old has its weights as pickles only (pytorch_model.bin), and a flow keeps safetensors" in said
    )
    assert "This failed task will not be retried." in said
    assert hub.bodies == []


def test_a_config_error_of_the_launch_is_not_retried(start: Start, tmp_path: Path, tiny_model: Path) -> None:
    """Also the way of a local model: nothing of it goes through the datastore."""
    rows = tiny.write_rows(tmp_path / "rows.jsonl", [{"question": "a", "reply": "b"}])
    run_file = write_run_file(tmp_path / "run.yaml", settings(tmp_path, str(tiny_model), rows))
    said = start("run", "--config-file", str(run_file), "--set", "max_steps=2").end(1)
    assert f"base model: {tiny_model}" in said
    assert "sft launch ended with 2, and is not retried: it would be refused again" in said
    assert "This failed task will not be retried." in said
    assert said.count("/train/2 ") > 0
    assert "Task is starting (retry)" not in said


@pytest.fixture
def local(tmp_path: Path, tiny_model: Path, tiny_chats: Path) -> Path:
    return write_run_file(tmp_path / "run.yaml", settings(tmp_path, str(tiny_model), tiny_chats))


@pytest.mark.slow
def test_running_out_of_memory_is_not_retried(start: Start, tmp_path: Path, local: Path) -> None:
    (tmp_path / "no-memory").touch()
    said = start("run", "--config-file", str(local)).end(1)
    assert "sft launch ended with 3, and is not retried: it would not fit again" in said
    assert "Task is starting (retry)" not in said


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_not_retried(start: Start, tmp_path: Path, local: Path) -> None:
    (tmp_path / "no-number").touch()
    flow = start("run", "--config-file", str(local))
    assert "sft launch ended with 5, and is not retried: the same numbers would come again" in flow.end(1)


@pytest.mark.slow
def test_a_lost_worker_is_retried(start: Start, tmp_path: Path, local: Path) -> None:
    (tmp_path / "hold").touch()
    flow = start("run", "--config-file", str(local))
    flow.until(r"kept checkpoint-6 in the datastore")
    os.kill(int((tmp_path / "held").read_text()), signal.SIGKILL)
    (tmp_path / "hold").unlink()
    said = flow.end()
    assert "sft launch ended with 6: a retry goes on from the last checkpoint" in said
    assert "continuing from step 6: checkpoint-6" in said


@pytest.mark.slow
def test_a_signal_to_the_step_stops_the_run_in_order_and_a_retry_goes_on(
    start: Start, tmp_path: Path, local: Path
) -> None:
    (tmp_path / "hold").touch()
    flow = start("run", "--config-file", str(local))
    flow.until(r"kept checkpoint-6 in the datastore")
    os.kill(flow.pid_of("train"), signal.SIGTERM)
    (tmp_path / "hold").unlink()
    said = flow.end()
    assert "sft launch ended with 75: a retry goes on from the last checkpoint" in said
    assert "continuing from step 7: checkpoint-7" in said


@pytest.mark.slow
def test_resume_goes_on_from_the_checkpoints_of_the_failed_run(
    start: Start, tmp_path: Path, local: Path
) -> None:
    (tmp_path / "no-memory").touch()
    (tmp_path / "hold").touch()
    failed = start("run", "--config-file", str(local))
    failed.until(r"kept checkpoint-6 in the datastore")
    (tmp_path / "hold").unlink()
    failed.end(1)
    (tmp_path / "no-memory").unlink()
    said = start("resume").end()
    assert "restored checkpoint-6 from the datastore" in said
    assert "continuing from step 6: checkpoint-6" in said
