"""`sft push --watch`: started when one likes, it goes on to the run's end, says what is wrong once, and leaves at once."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from sft.events import read_events
from sft.hub import watch as watching
from sft.hub.journal import pending
from sft.hub.outbox import request_push
from sft.hub.report import DeliveryReport
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from tests.cli.test_push import SFT
from tests.hub.conftest import MODEL, TOKENIZER, hub, run, save_checkpoint, save_final
from tests.loopback.hub import TOKEN, Hub

__all__ = ["hub", "run"]

REPO = "team/chat"
EVERY = HubSettings(repo=REPO)
STOPPED = "Stopped. What was delivered stays; the same command delivers the rest.\n"


def outcome(run: RunDirectory, status: str) -> None:
    run.kit.mkdir(parents=True, exist_ok=True)
    run.outcome_json.write_text(json.dumps({"status": status, "exit_code": 0, "step": 6}))


def save_and_ask(run: RunDirectory, step: int) -> None:
    save_checkpoint(run, step)
    request_push(run, EVERY, "save", step)


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class Watch:
    """`watch` in a thread of the test, with short waits."""

    def __init__(self, run: RunDirectory) -> None:
        self.said: list[str] = []
        self.shown: list[DeliveryReport] = []
        self.returned: list[DeliveryReport] = []
        self._run = run
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        self.returned.append(watching.watch(self._run, say=self.said.append, show=self.shown.append))

    def end(self) -> DeliveryReport:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.returned[0]


@pytest.fixture
def here(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The loopback Hub for this process, and short waits."""
    for name, value in hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("sft.hub.client.RETRY_WAITS_SECONDS", (0.01,))
    monkeypatch.setattr("sft.hub.problems.AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.02)
    yield hub
    hub.faults.clear()


def test_it_may_start_before_the_run_and_ends_with_it(here: Hub, run: RunDirectory) -> None:
    run.output_dir.rmdir()
    watch = Watch(run)
    wait_until(lambda: watch.said)
    assert watch.said == [f"waiting for a run in {run.output_dir}"]
    assert not run.output_dir.exists()
    for step in (3, 6):
        save_and_ask(run, step)
        wait_until(lambda: not pending(run))
    outcome(run, "stopped")
    time.sleep(0.2)
    assert watch.thread.is_alive(), "a stopped run is resumed"
    run.outcome_json.unlink()
    save_final(run)
    request_push(run, EVERY, "end", 9)
    outcome(run, "finished")
    assert watch.end().problem is None
    assert [one.what for report in watch.shown for one in report.delivered] == [
        "checkpoint-3",
        "checkpoint-6",
        "the model of step 9",
    ]
    assert len(here.commits(REPO)) == 3


def test_a_hub_that_is_away_for_a_while_is_said_once_and_tried_again(here: Hub, run: RunDirectory) -> None:
    here.fault("POST .*/commit/", status=503, times=5)
    save_and_ask(run, 3)
    outcome(run, "finished")
    watch = Watch(run)
    assert watch.end().problem is None
    assert [line for line in watch.said if line.startswith("the Hub is not well")] == [
        f"the Hub is not well: it answers 503\n  where: checkpoint-3 to {REPO} at {here.url}\n"
        f"  fix:   later: sft push {run.output_dir}"
    ]
    assert len(here.commits(REPO)) == 1


def test_what_a_person_must_mend_is_said_and_later_pushes_are_tried_all_the_same(
    here: Hub, run: RunDirectory
) -> None:
    here.fault("POST .*/commit/", status=413, times=1)
    save_and_ask(run, 3)
    watch = Watch(run)
    wait_until(lambda: any("413" in line for line in watch.said))
    save_and_ask(run, 6)
    wait_until(lambda: not pending(run))
    here.fault("POST .*/commit/", status=403)
    save_and_ask(run, 9)
    wait_until(lambda: any("403" in line for line in watch.said))
    outcome(run, "finished")
    problem = watch.end().problem
    assert problem is not None
    assert problem.what == "the token may not write to team/chat (403: fault 403)"
    assert [request.step for request in pending(run)] == [9]


@pytest.mark.parametrize("missing", ["token", "network"])
def test_without_a_token_or_told_to_stay_offline_it_does_not_begin(
    here: Hub, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing == "token":
        monkeypatch.setattr(watching, "get_token", lambda: None)
    else:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    problem = Watch(run).end().problem
    assert problem is not None
    assert (
        problem.what
        == {
            "token": "there is no token for the Hub, so nothing was pushed",
            "network": "huggingface_hub is told to stay offline, so nothing was pushed",
        }[missing]
    )


def test_it_leaves_the_events_of_a_live_run_alone(here: Hub, run: RunDirectory) -> None:
    """Two nodes cannot append to one file over NFS."""
    save_and_ask(run, 3)
    before = list(read_events(run.events_jsonl))
    watch = Watch(run)
    wait_until(lambda: not pending(run))
    assert list(read_events(run.events_jsonl)) == before
    outcome(run, "finished")
    assert watch.end().problem is None


def start(hub: Hub, run: RunDirectory, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SFT, "push", str(run.output_dir), "--watch"],
        env=hub.environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_ends_it_at_once_though_an_upload_hangs(hub: Hub, run: RunDirectory, tmp_path: Path) -> None:
    save_and_ask(run, 3)
    hub.fault("PUT /lfs/", hang=True)
    process = start(hub, run, tmp_path / "home")
    wait_until(lambda: any(request.startswith("PUT") for request in hub.requests))
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=20)
    assert time.monotonic() - begun < 2
    assert (process.returncode, out) == (75, "")
    assert said == f"pushing checkpoint-3 to {REPO} at {hub.url}\n{STOPPED}"
    assert [request.step for request in pending(run)] == [3]
    assert TOKEN not in said


def test_two_at_once_are_harmless(hub: Hub, run: RunDirectory, tmp_path: Path) -> None:
    both = [start(hub, run, tmp_path / "home") for _ in range(2)]
    hub.fault("POST .*/commit/", delay_seconds=0.5)
    save_and_ask(run, 3)
    wait_until(lambda: not pending(run))
    save_final(run)
    request_push(run, EVERY, "end", 6)
    outcome(run, "finished")
    ended = [process.communicate(timeout=40) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert [commit.message for commit in hub.commits(REPO)] == [
        "Training in progress, step 3",
        "End of training",
    ]
    assert sorted("".join(out for out, _ in ended).split()) == sorted(
        f"{hub.url}/{REPO}/commit/{commit.oid}" for commit in hub.commits(REPO)
    )
    assert set(hub.files(REPO)) == MODEL | TOKENIZER
