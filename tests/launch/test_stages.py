"""Merge and push after the training: what a stop leaves of them, and who does it then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sft.config.loader import load_run
from sft.config.run import RunConfig
from sft.events import read_events
from sft.launch import stages
from sft.launch.stop import StopNow, StopRequests

FINISHED = {"status": "finished", "exit_code": 0, "step": 12}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", str(tmp_path), "--use_peft"]
    config = load_run(None, [*words, "--merge", "true", "--push_to_hub", "true"], environment={}).config
    config.run.kit.mkdir(parents=True)
    config.run.outcome_json.write_text(json.dumps(FINISHED))
    return config


def wished(*_: Any) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    raise AssertionError("it was not broken off")


def test_a_stop_in_the_merge_leaves_merge_and_push(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "_merge", wished)
    with StopRequests() as stop:
        assert stages.follow(config, stages.wanted(config), stop) == 75
    what = "stopped before the merge was done: the same command does it"
    assert capsys.readouterr().err == f"{what}\n"
    assert json.loads(config.run.outcome_json.read_text()) == {
        "status": "stopped", "exit_code": 75, "step": 12, "reason": "SIGTERM", "what": what,
        "left": ["merge", "push"],
    }  # fmt: skip
    assert stages.left_over(config.run) == ["merge", "push"]
    events = [
        {k: v for k, v in event.items() if k != "time"} for event in read_events(config.run.events_jsonl)
    ]
    assert events == [
        {"event": "note", "text": what},
        {"event": "end", "status": "stopped", "exit_code": 75, "step": 12},
    ]

    done: list[str] = []
    monkeypatch.setattr(stages, "_merge", lambda run: done.append("merge") or 0)
    monkeypatch.setattr(stages, "_push", lambda run, seconds: done.append("push"))
    with StopRequests() as stop:
        assert stages.follow(config, stages.left_over(config.run), stop) == 0
    assert done == ["merge", "push"]
    assert json.loads(config.run.outcome_json.read_text()) == FINISHED
    assert stages.left_over(config.run) == []


def test_a_stop_in_the_push_leaves_only_that(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_merge", lambda run: 0)
    monkeypatch.setattr(stages, "_push", wished)
    with StopRequests() as stop:
        assert stages.follow(config, stages.wanted(config), stop) == 75
    assert stages.left_over(config.run) == ["push"]


def test_what_is_left_stands_in_the_outcome_while_it_is_done(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(stages, "_merge", lambda run: seen.append(stages.left_over(run)) or 0)
    monkeypatch.setattr(stages, "_push", lambda run, seconds: seen.append(stages.left_over(run)))
    with StopRequests() as stop:
        assert stages.follow(config, stages.wanted(config), stop) == 0
    assert seen == [["merge", "push"], ["push"]]
    assert json.loads(config.run.outcome_json.read_text()) == FINISHED


def test_a_merge_that_fails_is_left_and_the_push_goes_on(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed: list[str] = []
    monkeypatch.setattr(stages, "_merge", lambda run: 4)
    monkeypatch.setattr(stages, "_push", lambda run, seconds: pushed.append("push"))
    with StopRequests() as stop:
        assert stages.follow(config, stages.wanted(config), stop) == 4
    what = "the merge failed; the training is done: the same command merges, and trains nothing"
    assert capsys.readouterr().err == f"{what}\n"
    assert pushed == ["push"]
    assert json.loads(config.run.outcome_json.read_text()) == {
        "status": "failed", "exit_code": 4, "step": 12, "what": what, "left": ["merge"],
    }  # fmt: skip


def test_the_evaluation_stands_between_merge_and_push(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = config.kit.model_copy(update={"eval_metrics": ["exact_match"]})
    config = config.model_copy(update={"kit": kit})
    assert stages.wanted(config) == ["merge", "eval", "push"]
    stale = config.run.kit / "eval.json"
    stale.write_text("{}")
    asked: list[list[str]] = []

    def process(run: Any, doing: str, words: list[str], stdout: int) -> int:
        asked.append(words)
        assert words[0] == "merge" or not stale.exists(), "results of an earlier training"
        return {"merge": 3, "eval": 4}[words[0]]

    monkeypatch.setattr(stages, "_process", process)
    monkeypatch.setattr(stages, "_push", lambda run, seconds: asked.append(["push"]))
    with StopRequests() as stop:
        assert stages.follow(config, stages.wanted(config), stop) == 3, "of what failed first"
    assert asked[1:] == [["eval", str(config.run.output_dir)], ["push"]]
    what = (
        "the merge and the evaluation failed; the training is done: the same command merges and evaluates, and trains"
        " nothing"
    )
    assert capsys.readouterr().err == f"{what}\n"
    assert stages.left_over(config.run) == ["merge", "eval"]

    monkeypatch.setattr(
        stages, "_process", lambda run, doing, words, stdout: wished() if words[0] == "eval" else 0
    )
    with StopRequests() as stop:
        assert stages.follow(config, stages.left_over(config.run), stop) == 75
    assert capsys.readouterr().err == "stopped before the evaluation was done: the same command does it\n"
    assert stages.left_over(config.run) == ["eval"]

    monkeypatch.setattr(stages, "_process", lambda run, doing, words, stdout: 0)
    with StopRequests() as stop:
        assert stages.follow(config, stages.left_over(config.run), stop) == 0
    assert stages.left_over(config.run) == []


def test_a_wish_that_came_while_the_ranks_finished_is_taken_before_the_merge(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_merge", lambda run: pytest.fail("it was begun"))
    with StopRequests() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stages.follow(config, ["merge"], stop) == 75
        assert stages.follow(config, [], stop) == 0, "nothing was left to stop"
    assert stages.left_over(config.run) == ["merge"]


def lose_a_worker() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except KeyboardInterrupt:
        raise RuntimeError("a worker was lost") from None


def test_what_fails_after_the_wish_failed_of_it() -> None:
    with StopRequests() as stop, pytest.raises(StopNow), stop.interrupting():
        lose_a_worker()


def test_what_fails_without_a_wish_is_told() -> None:
    with StopRequests() as stop, pytest.raises(RuntimeError), stop.interrupting():
        raise RuntimeError("a worker was lost")


def clean_up_for_long() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # repeated by a scheduler: changes nothing
        time.sleep(0.4)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        pytest.fail("it was not broken off")


def test_a_second_ctrl_c_breaks_off_the_cleaning_up_as_well() -> None:
    with StopRequests() as stop:
        with pytest.raises(StopNow), stop.interrupting():
            clean_up_for_long()
        assert stop.at_once


def test_only_the_signals_of_the_run_file_and_a_lost_terminal_are_taken() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with StopRequests(["SIGTERM"]) as stop:
        assert signal.getsignal(signal.SIGUSR1) is before
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.first is signal.SIGHUP
    assert signal.getsignal(signal.SIGTERM) is not stop._note


WORKER = """
import os, sys, time
from sft.parent import heed_only_parent
heed_only_parent(os.getppid())
print("ready", flush=True)
time.sleep(60)
"""


def test_a_worker_heeds_only_its_parent() -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    for name in ("TERM", "INT", "USR1", "HUP", "TERM"):
        subprocess.run(["sh", "-c", f"kill -{name} {worker.pid}"], check=True)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.5)
    worker.terminate()
    assert worker.wait(5) == 0
