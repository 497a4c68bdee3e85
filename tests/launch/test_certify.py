"""`sft certify`: equal runs are said to be equal, and others are told apart to the first step and tensor."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from sft.errors import UserError
from sft.events import EventLog
from sft.launch.certify import Certificate, Difference, certify, compare
from sft.rundir import RunDirectory
from tests.training.launching import SFT

EQUAL = Difference(None, 0.0, None, 0.0)


def output(place: Path, losses: dict[int, float], **tensors: torch.Tensor) -> Path:
    log = EventLog(RunDirectory(place).events_jsonl)
    for step, loss in losses.items():
        log.write("log", step=step, loss=loss)
    log.write("log", step=9, train_loss=1.0)
    save_file(tensors, place / "model.safetensors")
    return place


LOSSES = {1: 3.0, 2: 2.5, 3: 2.0, 4: 1.5}
A, B = torch.arange(6.0).reshape(2, 3), torch.ones(4, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("losses", "a", "b", "found"),
    [
        (LOSSES, A, B, EQUAL),
        ({**LOSSES, 1: 9.0}, A, B, EQUAL),
        ({**LOSSES, 3: 2.25}, A, B, Difference(3, 0.25, None, 0.0)),
        (LOSSES, A + torch.eye(2, 3) / 2, B, Difference(None, 0.0, "model.safetensors:a", 0.5)),
        (LOSSES, A, B * 1.5, Difference(None, 0.0, "model.safetensors:b", 0.5)),
        ({**LOSSES, 4: 1.0}, A * -1, B, Difference(4, 0.5, "model.safetensors:a", 10.0)),
    ],
    ids=["equal", "before the checkpoint", "a loss", "a weight", "a bfloat16 weight", "both"],
)
def test_runs_are_compared_behind_the_checkpoint(
    losses: dict[int, float], a: torch.Tensor, b: torch.Tensor, found: Difference, tmp_path: Path
) -> None:
    one = output(tmp_path / "one", LOSSES, a=A, b=B)
    assert compare(one, output(tmp_path / "other", losses, a=a.contiguous(), b=b), after=2) == found


def test_a_step_or_a_tensor_that_is_missing_is_no_equality(tmp_path: Path) -> None:
    one = output(tmp_path / "one", LOSSES, a=A, b=B)
    short = compare(one, output(tmp_path / "short", {3: 2.0}, a=A, b=B), after=2)
    assert (short.step, short.loss, short.is_none) == (4, float("inf"), False)
    without = compare(one, output(tmp_path / "without", LOSSES, a=A), after=2)
    assert (without.tensor, without.weight) == ("model.safetensors:b", float("inf"))


def test_what_is_said() -> None:
    apart, spread = Difference(4, 0.5, "m:a", 0.25), Difference(3, 0.75, "m:a", 0.5)
    assert Certificate(6, 3, 4, EQUAL, None).lines() == [
        "equal: every loss and every weight, bit by bit (6 steps; killed at step 4, resumed from step 3)"
    ]
    within, outside = Certificate(6, 3, 4, apart, spread), Certificate(6, 3, 4, spread, apart)
    assert within.lines() == [
        "not equal: first the loss of step 4 (by at most 0.5) and m:a (by at most 0.25) (6 steps; killed at step 4,"
        " resumed from step 3)",
        "two runs that were not interrupted are 0.75 in the loss and 0.5 in the weights apart: the resume is within"
        " that",
    ]
    assert outside.lines()[1].endswith("the resume is NOT within that")
    assert (within.holds, outside.holds) == (True, False)


def test_too_few_steps_are_refused() -> None:
    loaded: Any = None
    with pytest.raises(UserError, match="certify needs at least 3 steps"):
        certify(loaded, steps=2)


def run_file(place: Path, model: Path, data: Path, **more: Any) -> Path:
    settings = {
        "model_name_or_path": str(model),
        "dataset_name": str(data),
        "output_dir": str(place / "run"),
        "bf16": False,
        "max_length": 128,
        "learning_rate": 1e-3,
        "report_to": "wandb",
        "launch": {"device": "cpu", "processes_per_node": 1},
        **more,
    }
    with (place / "run.yaml").open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(settings, stream)
    return place / "run.yaml"


@pytest.mark.slow
def test_a_run_is_certified(tiny_model: Path, tiny_chats: Path, tmp_path: Path) -> None:
    words = ["certify", str(run_file(tmp_path, tiny_model, tiny_chats)), "--steps", "4"]
    done = subprocess.run([*SFT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = "equal: every loss and every weight, bit by bit (4 steps; killed at step 3, resumed from step 2)"
    assert done.stderr.splitlines()[-1] == said
    assert done.stdout == f"{tmp_path}/run/_sft/certify/report.json\n"
    report = json.loads(Path(done.stdout.strip()).read_text())
    assert (report["holds"], report["resumed"]["step"], report["spread"]) == (True, None, None)


DRIFT = """
import torch
from transformers import TrainerCallback
class Drift(TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **_):
        if state.global_step:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).mul_(1.01)
"""


@pytest.mark.slow
def test_a_resume_that_drifts_is_found_out(tiny_model: Path, tiny_chats: Path, tmp_path: Path) -> None:
    drift = tmp_path / "drift.py"
    drift.write_text(DRIFT)
    settings = run_file(tmp_path, tiny_model, tiny_chats, callbacks=[f"{drift}:Drift"])
    done = subprocess.run(
        [*SFT, "certify", str(settings), "--steps", "4"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    first, second = done.stderr.splitlines()[-2:]
    assert first.startswith("not equal: first the loss of step 3 (by at most ")
    assert second.endswith("the resume is NOT within that")
