"""What else a run takes along: the best checkpoint, the patience left, the tokens seen; and what the limit deletes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback

from sft.checkpoint.find import complete
from sft.errors import ExitCode, UserError
from tests import tiny
from tests.training.here import Trained, train_here

STOP_AT = """
from pathlib import Path
from transformers import TrainerCallback
class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == STEP:
            control.should_save = control.should_training_stop = True
"""


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    """A run that overfits, so that its best evaluation is an early one."""
    rows = tiny.chats(48)
    (tmp_path / "data").mkdir()
    tiny.write_rows(tmp_path / "data" / "train.jsonl", rows[:40])
    tiny.write_rows(tmp_path / "data" / "test.jsonl", rows[40:])
    return {
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tmp_path / "data"),
        "use_cpu": True,
        "bf16": False,
        "max_length": 128,
        "max_steps": 12,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 2,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": True,  # the losses fall, so that the first evaluation stays the best
        "load_best_model_at_end": True,
        "early_stopping_patience": 5,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
    }


def patience_used(trained: Trained) -> int:
    (callback,) = (
        found
        for found in trained.trainer.callback_handler.callbacks
        if isinstance(found, EarlyStoppingCallback)
    )
    return int(callback.early_stopping_patience_counter)


def test_best_patience_and_tokens_survive_a_stop_and_a_move(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = train_here(tmp_path / "whole", settings)
    stopping = tmp_path / "stop.py"
    stopping.write_text(STOP_AT.replace("STEP", "7"))
    stopped = train_here(tmp_path / "first", {**settings, "callbacks": [f"{stopping}:Stop"]})
    assert stopped.trainer.state.global_step == 7
    assert [found.manifest.step for found in complete(stopped.run)] == [2, 7]

    shutil.move(tmp_path / "first" / "out", tmp_path / "moved" / "out")
    resumed = train_here(tmp_path / "moved", {**settings, "resume_from_checkpoint": True})
    for trained in (whole, resumed):
        state = trained.trainer.state
        assert (state.global_step, state.best_global_step) == (12, 2)
        assert state.best_model_checkpoint == str(trained.run.output_dir / "checkpoint-2")
        assert [found.manifest.step for found in complete(trained.run)] == [2, 12]
        assert patience_used(trained) == 5
    assert resumed.losses == whole.losses
    assert resumed.trained_tokens == whole.trained_tokens
    assert resumed.trainer.state.best_metric == whole.trainer.state.best_metric
    names = [trained.run.output_dir / "model.safetensors" for trained in (whole, resumed)]
    assert names[0].read_bytes() == names[1].read_bytes()
    # The best one's weights are what is left at the end.
    assert (names[0].parent / "checkpoint-2" / "model.safetensors").read_bytes() == names[0].read_bytes()


def test_a_checkpoint_holds_no_place_and_no_pickle_of_arguments(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    trained = train_here(tmp_path / "run", {**settings, "max_steps": 4})
    for found in complete(trained.run):
        assert not (found.path / "training_args.bin").exists()
        state = json.loads((found.path / "trainer_state.json").read_text())
        assert (state["best_global_step"], state["best_model_checkpoint"]) == (2, None)
        assert str(tmp_path) not in (found.path / "trainer_state.json").read_text()
        assert found.manifest.best_step == 2
        assert {path.name for path in found.path.iterdir()} == {*found.manifest.files, "manifest.json"}


@pytest.mark.parametrize("background", [True, False])
def test_a_save_is_told_when_it_is_complete(
    background: bool, settings: dict[str, Any], tmp_path: Path
) -> None:
    run = {**settings, "max_steps": 4, "background_save": background, "save_total_limit": None}
    trained = train_here(tmp_path / "run", run)
    saves = trained.of_kind("save")
    assert [event["step"] for event in saves] == [2, 4]
    assert [Path(event["path"]) for event in saves] == [found.path for found in complete(trained.run)]
    assert all(event["standstill_seconds"] > 0 and event["seconds"] > 0 for event in saves)
    assert not any(trained.run.staging.iterdir())
    assert not trained.trainer.saver.busy


FULL = """
import os
from pathlib import Path
from transformers import TrainerCallback
import sft.training.saving as saving
written = saving.write_part
class Disk(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        # Step 4's checkpoint finds no room; that of step 6 does.
        full = state.global_step + 1 in STEPS
        saving.write_part = refuse if full else written
def refuse(*arguments, **keywords):
    raise OSError(28, os.strerror(28), "optimizer.pt")
"""


@pytest.fixture
def whole_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what the callbacks above replace."""
    import sft.training.saving

    monkeypatch.setattr(sft.training.saving, "write_part", sft.training.saving.write_part)


@pytest.mark.usefixtures("whole_disk")
def test_a_save_that_fails_is_told_and_the_next_one_tried(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "disk.py").write_text(FULL.replace("STEPS", "(4,)"))
    run = {**settings, "max_steps": 8, "callbacks": [f"{tmp_path}/disk.py:Disk"], "save_total_limit": None}
    trained = train_here(tmp_path / "run", run)
    assert [found.manifest.step for found in complete(trained.run)] == [2, 6, 8]
    assert [event["step"] for event in trained.of_kind("save")] == [2, 6, 8]
    assert [event["text"] for event in trained.of_kind("note") if "could not" in event["text"]] == [
        "checkpoint-4 could not be saved: [Errno 28] No space left on device: 'optimizer.pt'. What was written of it is"
        " removed; training goes on, and the next save tries again"
    ]
    assert not any(trained.run.staging.iterdir())


@pytest.mark.usefixtures("whole_disk")
def test_a_stop_whose_checkpoint_cannot_be_saved_does_not_part_as_if_it_were(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "disk.py").write_text(FULL.replace("STEPS", "(7,)"))
    stop = tmp_path / "run" / "out" / "_sft" / "stop"
    (tmp_path / "stop.py").write_text(
        "import time\nfrom pathlib import Path\nfrom transformers import TrainerCallback\n"
        "class Stop(TrainerCallback):\n"
        "    def on_step_begin(self, args, state, control, **_):\n"
        f"        if state.global_step == 6:\n            Path({str(stop)!r}).touch()\n"
        "            time.sleep(1.2)  # the file is looked for once a second\n"
    )
    callbacks = [f"{tmp_path}/disk.py:Disk", f"{tmp_path}/stop.py:Stop"]
    with pytest.raises(UserError) as caught:
        train_here(tmp_path / "run", {**settings, "callbacks": callbacks, "eval_strategy": "no", **NO_BEST})
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert caught.value.problems[0].what == (
        "the last checkpoint could not be saved: [Errno 28] No space left on device: 'optimizer.pt'"
    )


NO_BEST = {"load_best_model_at_end": False, "metric_for_best_model": None, "early_stopping_patience": None}


def test_a_checkpoint_that_cannot_be_deleted_is_told_and_loses_no_save(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[int]:
        raise OSError(30, "Read-only file system", "checkpoint-2")

    monkeypatch.setattr("sft.training.saving.rotate", refuse)
    trained = train_here(tmp_path / "run", {**settings, "max_steps": 4})
    assert [found.manifest.step for found in complete(trained.run)] == [2, 4]
    notes = [event["text"] for event in trained.of_kind("note") if "save_total_limit" in event["text"]]
    told = "save_total_limit could not delete a checkpoint: [Errno 30] Read-only file system: 'checkpoint-2'"
    assert notes == [told, told]
