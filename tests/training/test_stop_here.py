"""Stops of a real trainer in this process: before a deadline, and in the middle of an evaluation, exactly continued."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sft.training import lead_time, stopping
from tests.training.here import Trained, train_here

SETTINGS: dict[str, Any] = {
    "max_steps": 8,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 2,
    "validation_fraction": 0.1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "metric_for_best_model": "eval_loss",
    "use_peft": True,
    "lora_dropout": 0.2,
    "save_total_limit": 20,
}


def test_a_run_saves_before_its_deadline(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has learned how long its steps and its saves take, and leaves no more time than they need."""
    # Its guess of the first save alone is longer than this deadline.
    monkeypatch.setattr(lead_time, "GUESSED_SECONDS", 0.5)
    ends = time.time() + 14
    monkeypatch.setenv("SFT_DEADLINE", str(ends))
    monkeypatch.setenv("SFT_DEADLINE_SOURCE", "launch.time_limit 14")
    given = {
        **settings,
        "max_steps": 100_000,
        "save_strategy": "steps",
        "save_steps": 20,
        "save_total_limit": 2,
    }
    stopped = train_here(tmp_path, given | {"launch": {"leave_seconds": 2}, "logging_steps": 20})
    spare = ends - time.time()
    outcome = json.loads(stopped.run.outcome_json.read_text())
    step = outcome["step"]
    print(f"left {spare:.1f} s before the deadline, after {step} steps", stopped.of_kind("save")[-1])
    assert outcome == {"status": "stopped", "exit_code": 75, "step": step, "reason": "launch.time_limit 14"}
    assert (stopped.run.output_dir / f"checkpoint-{step}" / "manifest.json").exists()
    assert stopped.of_kind("save")[-1]["step"] == step
    assert stopped.of_kind("save")[-1]["time"] + 1 < ends
    assert 0 < spare < 8
    clock = time.strftime("%H:%M:%S", time.localtime(ends))
    notes = [event["text"] for event in stopped.of_kind("note")]
    assert notes == [
        f"stops by itself before {clock} (launch.time_limit 14); a kill at any moment loses at most 20 steps"
        " (save_steps), or up to 40 while a checkpoint is still being written",
        f"stopping after step {step}: launch.time_limit 14",
    ]


class StopAt(stopping.StopCallback):
    """Hears a stop at a batch of the evaluation of a step; counted over the process."""

    step, batch = 0, 0

    def on_prediction_step(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
        if state.global_step == self.step and self._batches + 1 >= self.batch:
            self._rank.run.stop_file.write_text("SIGUSR1")
            self._looked = -10.0
            self._next_batch = 0
        super().on_prediction_step(args, state, control, **seen)


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in trained.trainer.model.named_parameters()}


def evaluations(trained: Trained) -> list[tuple[int, float]]:
    return [(event["step"], event["eval_loss"]) for event in trained.of_kind("evaluate")]


@pytest.mark.parametrize(
    ("more", "step", "batch"),
    [
        ({}, 4, 3),
        ({"save_strategy": "best"}, 4, 1),
        ({}, 8, 2),
        ({"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": 90}, 45, 2),
    ],
    ids=["within", "best", "at the end", "at an epoch's end"],
)
def test_a_stop_in_an_evaluation_changes_nothing_of_the_run(
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    step: int,
    batch: int,
) -> None:
    given = {**settings, **SETTINGS, **more}
    whole = train_here(tmp_path / "whole", given)

    monkeypatch.setattr("sft.training.stopping.StopCallback", StopAt)
    monkeypatch.setattr(StopAt, "step", step)
    monkeypatch.setattr(StopAt, "batch", batch)
    stopped = train_here(tmp_path / "parts", given)
    outcome = stopped.run.outcome_json.read_text()
    print(outcome, [event["text"] for event in stopped.of_kind("note")])
    assert f'"status": "stopped", "exit_code": 75, "step": {step}, "reason": "SIGUSR1"' in outcome
    saved = [event["step"] for event in stopped.of_kind("save")]
    assert saved.count(step) == 1
    assert (stopped.run.output_dir / f"checkpoint-{step}" / "manifest.json").exists()
    assert step not in dict(evaluations(stopped))

    stopped.run.stop_file.unlink()
    monkeypatch.setattr(StopAt, "step", -1)
    parts = train_here(tmp_path / "parts", given, "--resume_from_checkpoint", "true")
    print(evaluations(whole), evaluations(parts), sep="\n")
    assert evaluations(parts) == evaluations(whole)
    assert parts.losses == whole.losses
    assert parts.trainer.state.best_metric == whole.trainer.state.best_metric
    assert parts.trainer.state.best_global_step == whole.trainer.state.best_global_step
    ours, theirs = weights(parts), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
