"""What only a launch shows: accelerate by hand, arrangements that are silently another, metrics over two ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sft.errors import ExitCode
from sft.events import read_events
from tests import tiny
from tests.training.here import read_settings
from tests.training.launching import launch, succeeded

TWO = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "MULTI_GPU",
    "num_machines": 1,
    "num_processes": 2,
    "machine_rank": 0,
    "mixed_precision": "no",
    "use_cpu": True,
    "main_process_port": 0,
}


def accelerate(
    directory: Path, accelerate_file: dict[str, Any], *words: str
) -> subprocess.CompletedProcess[str]:
    """Launch `directory`/run.yaml by hand, with an accelerate file of these settings."""
    (directory / "accelerate.yaml").write_text(json.dumps(accelerate_file))
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(directory / "accelerate.yaml"),
    ]
    run = ["-m", "sft.training.train", "--config", str(directory / "run.yaml"), *words]
    return subprocess.run([*command, *run], capture_output=True, text=True, timeout=240, check=False)


def test_accelerate_launch_by_hand_trains_and_shows_progress(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """`push_to_hub` in the file would need a network; the flag after it wins."""
    read_settings(tmp_path, {**settings, "push_to_hub": True})
    done = accelerate(tmp_path, TWO, "--push_to_hub", "false")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "started on 2 processes" in done.stderr
    assert [f"step {step}/3" in done.stderr for step in (1, 2, 3)] == [True] * 3
    assert done.stderr.count("step 3/3") == 1, "one rank tells"
    assert (tmp_path / "out" / "model.safetensors").is_file()
    outcome = json.loads((tmp_path / "out" / "_sft" / "outcome.json").read_text())
    assert outcome == {"status": "finished", "exit_code": 0, "step": 3}
    assert not (tmp_path / "out" / "_sft" / "outbox").exists()


def refused(directory: Path, done: subprocess.CompletedProcess[str], what: str) -> None:
    """By hand a launch promises only zero or not; the message stands on the screen and in the rank's state."""
    assert done.returncode != 0
    assert f"the ranks came up otherwise than planned: {what}" in done.stderr
    state = json.loads((directory / "out" / "_sft" / "ranks" / "rank-0.json").read_text())
    assert (state["status"], state["exit_code"]) == ("failed", ExitCode.ENVIRONMENT)
    assert not (directory / "out" / "model.safetensors").exists()


def test_two_processes_that_would_train_side_by_side_are_refused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """MULTI_GPU without GPUs and without use_cpu: each process takes itself for the only one."""
    read_settings(tmp_path, {**settings, "use_cpu": False})
    done = accelerate(tmp_path, {**TWO, "use_cpu": False})
    refused(tmp_path, done, "1 processes instead of 2")


def test_fsdp_that_is_silently_ddp_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    fsdp = {"fsdp_version": 2, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}
    read_settings(tmp_path, settings)
    done = accelerate(tmp_path, {**TWO, "distributed_type": "FSDP", "fsdp_config": fsdp})
    refused(tmp_path, done, "distributed type MULTI_CPU instead of FSDP")


def test_metrics_over_two_ranks_see_every_sample_of_an_uneven_set_once(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    rows = tiny.chats(19)
    (tmp_path / "data").mkdir()
    tiny.write_rows(tmp_path / "data" / "train.jsonl", rows[:12])
    tiny.write_rows(tmp_path / "data" / "test.jsonl", rows[12:])
    (tmp_path / "metrics.py").write_text(
        "def seen(prediction):\n"
        "    rows = [tuple(int(t) for t in row if t != -100) for row in prediction.label_ids]\n"
        "    return {'rows': len(rows), 'different': len(set(rows)), 'tokens': sum(map(len, rows))}\n"
    )
    more = {
        "dataset_name": str(tmp_path / "data"),
        "eval_strategy": "steps",
        "eval_steps": 3,
        "per_device_eval_batch_size": 2,
        "per_device_train_batch_size": 2,
        "compute_metrics": f"{tmp_path / 'metrics.py'}:seen",
    }
    launched = succeeded(launch(tmp_path / "out", {**settings, **more}, "--processes_per_node", "2"))
    (evaluation,) = launched.of_kind("evaluate")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["model_name_or_path"])
    tokens = sum(
        len(tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"])
        for row in rows[12:]
    )
    found = {key: evaluation[f"eval_{key}"] for key in ("rows", "different", "tokens")}
    assert found == {"rows": 7, "different": 7, "tokens": tokens}
    assert next(iter(read_events(launched.run.events_jsonl)))["world_size"] == 2
