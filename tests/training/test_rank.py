"""What a rank says of itself while it lives: its phase, its step, when it last came further, and its stacks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.rundir import RunDirectory
from sft.training import rank as rank_module
from sft.training.rank import Rank
from tests.launch.supervised import wait_for

LIVE = """\
import sys, time
from pathlib import Path
from sft.rundir import RunDirectory
from sft.training.rank import Rank

with Rank(RunDirectory(Path(sys.argv[1]))) as rank:
    rank.phase("train")
    for step in range(1, 200):
        rank.step(step)
        time.sleep(0.01)
        if step == 120:
            print("steps done", flush=True)
            sys.stdin.readline()  # waits in C, as in a collective
            break
"""


def started(run: RunDirectory) -> subprocess.Popen[str]:
    environment = {**os.environ, "RANK": "0"}
    environment.pop("SFT_SUPERVISED", None)
    return subprocess.Popen(
        [sys.executable, "-c", LIVE, str(run.output_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def read(run: RunDirectory) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(run.rank_state(0).read_text())
    return state


def test_steps_are_written_once_a_second_and_the_last_one_without_fail(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    process = started(run)
    wait_for(run.rank_state(0).exists)
    written = set()
    while process.poll() is None and read(run).get("step") != 120:
        written.add((run.rank_state(0).stat().st_ino, run.rank_state(0).stat().st_mtime_ns))
        time.sleep(0.005)
    assert read(run)["step"] == 120
    assert len(written) <= 5, "the start, the phase, and one a second"
    assert 0 < time.monotonic() - read(run)["since"] < 5
    process.kill()
    process.communicate()


def test_the_stacks_come_on_sigusr2_while_the_rank_waits_in_c_and_it_goes_on(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    process = started(run)
    assert process.stdout is not None
    process.stdout.readline()
    assert run.rank_stacks(0).read_text() == ""
    process.send_signal(rank_module.STACKS_SIGNAL)
    wait_for(lambda: "in <module>" in run.rank_stacks(0).read_text(), 5)
    assert 'File "<string>", line 1' in run.rank_stacks(0).read_text()
    process.communicate("\n", timeout=10)
    assert (process.returncode, read(run)["status"]) == (0, "done")
    assert run.rank_stacks(0).exists()


def test_a_rank_that_was_never_asked_leaves_no_empty_file(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    process = started(run)
    assert process.stdout is not None
    process.stdout.readline()
    process.communicate("\n", timeout=10)
    assert process.returncode == 0
    assert not run.stacks.exists()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def fill() -> None:
        def write_whole(path: Path, text: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(rank_module, "write_whole", write_whole)

    return fill


def test_a_full_disk_does_not_end_a_rank_and_its_state_is_touched(
    tmp_path: Path, full_disk: Callable[[], None]
) -> None:
    rank = Rank(RunDirectory(tmp_path))
    rank.phase("load")
    path = rank.run.rank_state(rank.index)
    os.utime(path, (1, 1))
    full_disk()
    rank.phase("train")
    assert path.stat().st_mtime > 1
    assert json.loads(path.read_text())["phase"] == "load"


def test_steps_micro_batches_and_evaluated_batches_are_progress(tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from sft.training.heartbeat import HeartbeatCallback

    rank = Rank(RunDirectory(tmp_path))
    callback = HeartbeatCallback(rank)
    arguments, control = TrainingArguments(str(tmp_path), use_cpu=True), TrainerControl()
    told = []
    for step, event in enumerate(
        ("on_train_begin", "on_substep_end", "on_step_end", "on_prediction_step"), 7
    ):
        before = time.monotonic()
        getattr(callback, event)(arguments, TrainerState(global_step=step), control)
        told.append(rank._state["step"])
        assert rank._state["since"] >= before
    assert told == [7, 7, 9, 9]
