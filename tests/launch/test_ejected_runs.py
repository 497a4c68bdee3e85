"""Ejected files train with no kit that could be imported, and every step's loss is the kit's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.training.launching import REPOSITORY, Launched, launch, succeeded

STEPS = 6
NO_KIT = """
import os, sys


class NoKit:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sft":
            raise ModuleNotFoundError("the kit is hidden by the test", name=name)


sys.meta_path.insert(0, NoKit())
with open(os.environ["GUARDED"], "a") as file:
    file.write(f"{os.environ.get('RANK')}\\n")
"""
"""A sitecustomize that hides the kit from every Python that starts, and tells which rank has started."""

BASE: dict[str, Any] = {
    "bf16": False,
    "max_length": 128,
    "max_steps": STEPS,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": STEPS,
    "total_train_batch_size": 8,
    "report_to": "none",
    "seed": 7,
}


def alpaca(path: Path, count: int) -> Path:
    """Write rows that TRL does not know, one of them without an answer."""
    turns = [row["messages"] for row in tiny.chats(count)]
    rows = [{"instruction": ask["content"], "input": "", "output": say["content"]} for ask, say in turns]
    return tiny.write_rows(path, [*rows, {"instruction": "Nothing?", "input": "", "output": " "}])


def commands() -> list[str]:
    """Return the commands that docs/leaving.md shows."""
    page = (REPOSITORY / "docs" / "leaving.md").read_text()
    found = re.search(r"```bash\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def shell(command: str, place: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command as it stands on the page."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **more},
        capture_output=True,
        text=True,
        timeout=400,  # DeepSpeed may compile first
        check=False,
    )


def stock_logs(place: Path, command: str) -> list[dict[str, Any]]:
    """Run ejected files where no Python finds the kit, and return what the trainer logged."""
    (place / "hidden").mkdir()
    (place / "hidden" / "sitecustomize.py").write_text(NO_KIT)
    hidden = {
        "PYTHONPATH": str(place / "hidden"),
        "GUARDED": str(place / "guarded"),
        "HF_DATASETS_CACHE": str(place / "datasets"),
    }
    probe = shell("python -c 'import sft'", place, **hidden)
    assert probe.stderr.endswith("ModuleNotFoundError: the kit is hidden by the test\n")
    done = shell(command, place, **hidden)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((place / "stock-run" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return list(state["log_history"])


def compare(tmp_path: Path, settings: dict[str, Any], ranks: int) -> tuple[Launched, Path]:
    """Train with the kit and without, and hold the losses of every step against each other."""
    ours = succeeded(launch(tmp_path / "ours", settings))
    eject, run = commands()
    shutil.copyfile(tmp_path / "ours.yaml", tmp_path / "run.yaml")
    ejected = shell(eject, tmp_path)
    assert ejected.returncode == 0, ejected.stderr
    directory = tmp_path / "stock"
    logs = stock_logs(tmp_path, run)
    started = (tmp_path / "guarded").read_text().split()
    assert {str(rank) for rank in range(ranks)} <= set(started) or ranks == 1, started
    steps = [log for log in logs if "loss" in log]
    kits = [event for event in ours.of_kind("log") if "loss" in event]
    assert len(steps) == len(kits) == STEPS
    assert ours.losses[-1] < ours.losses[0] - 0.05, "the run must learn, or the comparison says nothing"
    for key in ("loss", "learning_rate", "grad_norm"):
        assert [log[key] for log in steps] == pytest.approx([event[key] for event in kits], abs=1e-5), key
    # Other rows, or the same in another order, would have other tokens in some step.
    assert [log["num_tokens"] for log in steps] == [event["num_tokens"] for event in kits]
    assert [log["eval_loss"] for log in logs if "eval_loss" in log] == pytest.approx(
        ours.eval_losses, abs=1e-5
    )
    return ours, directory


def test_one_process_trains_what_the_kit_trains(tiny_model: Path, tmp_path: Path) -> None:
    """With all that has to be carried over: converted and held-out rows, packing, an adapter's dropout, a schedule."""
    settings = {
        **BASE,
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(alpaca(tmp_path / "alpaca.jsonl", 120)),
        "validation_fraction": 0.1,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "packing": True,
        "eval_packing": False,
        "use_peft": True,
        "lora_target_modules": ["q_proj"],
        "lora_dropout": 0.2,
        "learning_rate": 5e-2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "launch": {"device": "cpu", "processes_per_node": 1},
    }
    _, directory = compare(tmp_path, settings, 1)
    assert sorted(path.name for path in (directory / "data").iterdir()) == ["eval.jsonl", "train.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "form"), [("ddp", "tokens"), ("zero3", "text")])
def test_two_processes_train_what_the_kit_trains(
    strategy: str, form: str, tiny_model: Path, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [*tiny.chats(80)]
    if form == "tokens":
        rows.append({"messages": [{"role": "user", "content": "<|im_end|>?"}, rows[0]["messages"][1]]})
    settings = {
        **BASE,
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tiny.write_rows(tmp_path / "chats.jsonl", rows)),
        "assistant_only_loss": True,
        "per_device_train_batch_size": 2,
        "learning_rate": 2e-3,
        "launch": {"device": "cpu", "processes_per_node": 2, "strategy": strategy},
    }
    _, directory = compare(tmp_path, settings, 2)
    suffix = {"text": "jsonl", "tokens": "parquet"}[form]
    assert [path.name for path in (directory / "data").iterdir()] == [f"train.{suffix}"]
