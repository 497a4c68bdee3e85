"""Real launches whose disk fails them: a small tmpfs that is full for one save, a run directory that is deleted."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.checkpoint.find import newest
from tests.training.launching import launch, succeeded
from tests.training.live import Live

# Loaded by the rank as a callback of the user's own.
FILLS_THE_DISK = '''\
"""Leave no room on the disk of the run from step 3 to step 5."""

from pathlib import Path

from transformers import TrainerCallback


class Fill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        filler = Path(args.output_dir) / "filler"
        if state.global_step == 3:
            with filler.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(1 << 12)):
                        pass
                except OSError:
                    pass
        if state.global_step == 5:
            filler.unlink()
'''


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a full disk is a small tmpfs here, and mounting one needs root")
    yield place
    subprocess.run(["umount", place], check=True)


def settings(model: Path, chats: Path, **more: Any) -> dict[str, Any]:
    return {
        "model_name_or_path": str(model),
        "dataset_name": str(chats),
        "use_peft": True,
        "lora_target_modules": ["q_proj"],
        "bf16": False,
        "max_length": 64,
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
        "launch": {"device": "cpu", "strategy": "single", "processes_per_node": 1},
        **more,
    }


def test_a_disk_that_is_full_for_one_save(
    small_disk: Path, tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    (tmp_path / "fill.py").write_text(FILLS_THE_DISK)
    callbacks = {"callbacks": [f"{tmp_path}/fill.py:Fill"]}
    launched = succeeded(launch(small_disk / "run", settings(tiny_model, tiny_chats, **callbacks)))
    assert [event["step"] for event in launched.of_kind("save")] == [2, 6]
    assert [event["step"] for event in launched.of_kind("log") if "loss" in event] == [1, 2, 3, 4, 5, 6]
    notes = [event["text"] for event in launched.of_kind("note")]
    (note,) = [text for text in notes if text.startswith("checkpoint-")]
    assert note.startswith("checkpoint-4 could not be saved: "), notes
    assert "No space left on device" in note
    assert note.endswith(
        ". What was written of it is removed; training goes on, and the next save tries again"
    )
    assert note in launched.stderr
    assert "Traceback" not in launched.stderr
    said: list[str] = []
    found = newest(launched.run, said.append)
    assert found is not None
    assert (found.manifest.step, said) == (6, [])


@pytest.mark.slow
def test_a_run_whose_directory_is_deleted_during_a_save_ends_well_in_a_new_one(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    live = Live(tmp_path / "run", settings(tiny_model, tiny_chats, max_steps=40, save_steps=1))
    try:
        live.until(lambda: list(live.run.staging.glob("checkpoint-*")))
        shutil.rmtree(live.run.output_dir, ignore_errors=True)
        code = live.end()
    finally:
        live.kill()
    assert code == 0, live.said()
    assert "Traceback" not in live.said()
    assert live.said().count("could not be saved") <= 3
    assert (live.run.output_dir / "adapter_model.safetensors").exists()
    found = newest(live.run, pytest.fail)
    assert found is not None
    assert found.manifest.step == 40
