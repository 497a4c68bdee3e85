"""Delivery beside training: nothing is waited for, nothing outlives its parent, no token is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.events import read_events
from sft.hub.background import finish_delivery, start_delivery
from sft.hub.journal import pending
from sft.hub.outbox import request_push
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from tests.hub.conftest import MODEL, TOKENIZER, save_checkpoint, save_final
from tests.loopback.hub import TOKEN, Hub

REPO = "team/chat"


@pytest.fixture
def waiting(run: RunDirectory) -> RunDirectory:
    """A run with one save that waits to be pushed."""
    save_checkpoint(run, 3)
    request_push(run, HubSettings(repo=REPO), "save", 3)
    return run


@pytest.fixture
def on_this_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Let the processes that the test starts know the loopback Hub and its token."""
    for name, value in hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    return hub


def wait_until(condition: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def written(run: RunDirectory) -> str:
    """Everything that the kit wrote into the run directory."""
    return "".join(path.read_text() for path in run.kit.rglob("*") if path.is_file())


def test_a_push_is_started_and_not_waited_for(on_this_hub: Hub, waiting: RunDirectory) -> None:
    on_this_hub.fault("POST .*/commit/", delay_seconds=1.0)
    begun = time.monotonic()
    process = start_delivery(waiting)
    assert time.monotonic() - begun < 0.5
    assert process is not None
    assert process.wait(30) == 0
    assert set(on_this_hub.files(REPO)) == MODEL | TOKENIZER
    states = [event["state"] for event in read_events(waiting.events_jsonl) if event["event"] == "push"]
    assert states == ["waiting", "done"]
    assert start_delivery(waiting) is None
    log = (waiting.logs / "push.log").read_text()
    assert f"pushing checkpoint-3 to {REPO} at {on_this_hub.url}\n" in log
    assert f"pushed checkpoint-3 to {on_this_hub.url}/{REPO}/commit/" in log
    assert TOKEN not in written(waiting)


def test_a_second_push_is_not_started_beside_one_that_hangs_and_both_wait_for_the_end(
    on_this_hub: Hub, waiting: RunDirectory
) -> None:
    on_this_hub.fault("POST .*/commit/", hang=True, times=1)
    process = start_delivery(waiting)
    assert process is not None
    wait_until(lambda: f"POST /api/models/{REPO}/commit/main" in on_this_hub.requests)
    assert start_delivery(waiting) is None
    process.kill()
    process.wait()
    save_final(waiting)
    request_push(waiting, HubSettings(repo=REPO), "end", 6)
    report = finish_delivery(waiting, timeout_seconds=30)
    assert [one.what for one in report.delivered] == ["the model of step 6"]
    assert on_this_hub.files(REPO)["model.safetensors"] == b"final model.safetensors"


def test_the_end_waits_no_longer_than_its_limit(on_this_hub: Hub, waiting: RunDirectory) -> None:
    on_this_hub.fault("POST .*/commit/", hang=True)
    begun = time.monotonic()
    report = finish_delivery(waiting, timeout_seconds=2)
    assert time.monotonic() - begun < 8
    assert str(report.problem) == (
        "the push to the Hub did not end within 2 s; the run itself is complete on disk\n"
        f"  where: {waiting.outbox}\n"
        f"  fix:   sft push {waiting.output_dir}  # takes up what still waits"
    )
    assert report.waiting == ("checkpoint-3",)
    assert [request.step for request in pending(waiting)] == [3]
    assert TOKEN not in written(waiting)


def test_a_process_that_breaks_is_told_with_its_log(
    on_this_hub: Hub, waiting: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    report = finish_delivery(waiting, timeout_seconds=5)
    assert str(report.problem) == (
        "the process that pushes to the Hub ended with code 1\n"
        f"  where: {waiting.logs / 'push.log'}\n"
        f"  fix:   sft push {waiting.output_dir}"
    )


def test_a_push_dies_with_the_process_that_started_it(on_this_hub: Hub, waiting: RunDirectory) -> None:
    on_this_hub.fault("POST .*/commit/", hang=True)
    script = (
        "import pathlib, sys, time\n"
        "from sft.hub.background import start_delivery\n"
        "from sft.rundir import RunDirectory\n"
        "print(start_delivery(RunDirectory(pathlib.Path(sys.argv[1]))).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(waiting.output_dir)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_until(lambda: f"POST /api/models/{REPO}/commit/main" in on_this_hub.requests)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not is_running(child))
    assert [request.step for request in pending(waiting)] == [3]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_pushing_needs_no_torch() -> None:
    """The process beside training starts in a second because it needs no torch."""
    script = "import sys, sft.hub.deliver, sft.hub.card; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
