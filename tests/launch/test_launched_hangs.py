"""Real launches whose rank 1 gets into trouble: found, told, ended, and started again where that helps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.training.launching import Launched, launch

TROUBLE = """\
import os
import signal
import time
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback

HOW, ONCE = os.environ["HOW"], Path(os.environ["ONCE"])
MINE = os.environ["RANK"] == "1"


def wait_for_ever(*arguments):
    time.sleep(600)


class Trouble(TrainerCallback):
    def __init__(self):
        if MINE and HOW == "hang in save":
            Trainer._save_rng_state = wait_for_ever

    def on_step_begin(self, args, state, control, **_):
        if not MINE or state.global_step != 2 or (HOW == "hang once" and ONCE.exists()):
            return
        ONCE.touch()
        if HOW == "hang once":
            wait_for_ever()
        if HOW == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if HOW == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if HOW == "out of memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if HOW == "full disk":
            raise OSError(28, "No space left on device", "/data/x")
"""
LIMIT = 6.0


def troubled(
    directory: Path, tiny_model: Path, tiny_chats: Path, how: str, *words: str, **more: Any
) -> Launched:
    """Launch two ranks that save after two steps, and get into trouble in the third."""
    callbacks = directory / "trouble.py"
    callbacks.write_text(TROUBLE)
    settings = {
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tiny_chats),
        "use_peft": True,
        "max_steps": 4,
        "logging_steps": 1,
        "save_steps": 2,
        "max_length": 64,
        "per_device_train_batch_size": 2,
        "callbacks": [f"{callbacks}:Trouble"],
        "env": {"HOW": how, "ONCE": str(directory / "once")},
        "launch": {"processes_per_node": 2, "strategy": "ddp", "limits": {"train": LIMIT, "save": LIMIT}},
    }
    launched = launch(directory / "run", settings | more, *words)
    assert left_of(launched) == []
    return launched


def left_of(launched: Launched) -> list[int]:
    """List the live processes of a run, by the directory in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SFT_RUN_DIR") == str(launched.run.output_dir):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_rank_that_hangs_in_a_step_is_found_and_the_run_starts_again_from_its_checkpoint(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    run = troubled(tmp_path, tiny_model, tiny_chats, "hang once", "--max-restarts", "1")
    assert run.code == 0, run.stderr
    said = run.stderr.splitlines()
    begin = said.index("ranks 0-1 in step 3: no progress for 6 s (limit of train)")
    assert said[begin + 1] == f"  where: {run.run.stacks}"
    assert said[begin + 4] == f"  rank 1 is at {tmp_path}/trouble.py:14 in wait_for_ever"
    restart = "a worker was lost at step 2: restart 1 of 1 in 5 s"
    assert said[begin + 5] == restart
    assert restart in [event["text"] for event in run.of_kind("note")]
    assert [event["step"] for event in run.of_kind("start")] == [0, 2]
    assert [(event["status"], event["exit_code"]) for event in run.of_kind("end")] == [
        ("failed", 6),
        ("finished", 0),
    ]
    # Rank 0 waits for the other's gradients, in C: it has answered all the same.
    assert "Current thread" in run.run.rank_stacks(0).read_text()
    assert json.loads(run.run.outcome_json.read_text()) == {"status": "finished", "exit_code": 0, "step": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("stop", "rank 0 in step 3, rank 1 in step 3 (stopped by a signal, pid {pid}): no progress for 6 s"),
        ("hang in save", "rank 0 in step 3, rank 1 in save: no progress for 6 s (limit of train)"),
    ],
)
def test_a_hang_is_told_wherever_it_is(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path, how: str, line: str
) -> None:
    run = troubled(tmp_path, tiny_model, tiny_chats, how)
    pid = json.loads(run.run.rank_state(1).read_text())["pid"]
    assert run.code == 6, run.stderr
    assert line.format(pid=pid) in run.stderr
    outcome = json.loads(run.run.outcome_json.read_text())
    assert (outcome["status"], outcome["exit_code"]) == ("failed", 6)
    assert outcome["what"].startswith(line.format(pid=pid))


@pytest.mark.slow
def test_a_rank_that_dies_at_the_same_step_every_time_is_a_crash_loop(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    # The save is whole before the next step begins: one in the background may be lost with the rank.
    run = troubled(tmp_path, tiny_model, tiny_chats, "die", "--max-restarts", "9", background_save=False)
    assert run.code == 6, run.stderr
    assert [event["step"] for event in run.of_kind("start")] == [0, 2, 2]
    assert run.stderr.splitlines()[-1] == "not restarted: 2 starts in a row came no further than step 2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code", "why"),
    [
        ("out of memory", 3, "it would not fit again"),
        ("full disk", 4, "what is wrong with the environment has to be mended first"),
    ],
)
def test_what_would_fail_again_ends_a_launch_with_its_own_code(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path, how: str, code: int, why: str
) -> None:
    run = troubled(tmp_path, tiny_model, tiny_chats, how, "--max-restarts", "3")
    assert run.code == code, run.stderr
    assert run.stderr.splitlines()[-1] == f"not restarted: {why}"
    assert len(run.of_kind("start")) == 1


def test_a_stale_lock_is_refused_where_deepspeed_would_wait_for_it(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "extensions" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (1, 1))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    zero2 = {"launch": {"processes_per_node": 2, "strategy": "zero2"}}
    run = troubled(tmp_path, tiny_model, tiny_chats, "hang once", **zero2)
    assert run.code == 4
    assert "the torch extension cpu_adam is locked by a build that was killed" in run.stderr
    assert run.stderr.endswith(f"  where: {lock}\n  fix:   rm {lock}\n")
    assert not run.run.events_jsonl.exists()
