"""`sft sync`: the real wandb client against a server on the loopback."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.errors import ExitCode, UserError
from sft.events import read_events
from sft.report.sync import claimed, sync
from sft.rundir import RunDirectory
from tests.loopback.wandb import API_KEY, WandbServer, wandb_server
from tests.report.runs import WrittenRun, settings

__all__ = ["wandb_server"]
SYNC = [sys.executable, "-c", "import sys; from sft.cli.main import main; sys.exit(main())", "sync"]


def sft_sync(run: WrittenRun, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as wandb keeps its settings for a process's life."""
    return subprocess.run(
        [*SYNC, str(run.directory.output_dir), *words],
        capture_output=True,
        text=True,
        timeout=90,
    )


def files_with(directory: Path, text: str) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_an_offline_run_restarted_twice_becomes_one_wandb_run(
    tmp_path: Path, wandb_server: WandbServer
) -> None:
    run = WrittenRun(tmp_path / "run", settings("wandb", run_name="chat"))
    run.start()
    run.train(1, 5, loss=3.0)
    run.start(step=3)
    run.train(4, 6, loss=2.0)
    run.end(6, status="stopped", exit_code=75)
    run.start(step=6)
    run.train(7, 8, loss=1.0)
    run.evaluate(8, loss=0.5)
    run.log.write("log", step=8, train_runtime=12.5)
    run.end(8)

    done = sft_sync(run)

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{wandb_server.url}/tester/huggingface/runs/run00001\n"
    assert list(wandb_server.runs) == ["run00001"]
    received = wandb_server.runs["run00001"]
    losses = {step: round(loss, 2) for step, loss in received.values("train/loss").items()}
    assert losses == {1: 2.99, 2: 2.98, 3: 2.97, 4: 1.96, 5: 1.95, 6: 1.94, 7: 0.93, 8: 0.92}
    assert received.values("eval/loss") == {8: 0.5}
    assert received.values("train/global_step") == {step: step for step in range(1, 9)}
    assert received.summary["train_runtime"] == 12.5
    assert received.config["learning_rate"]["value"] == 2e-4
    assert received.config["hub_token"]["value"] == "<HUB_TOKEN>"
    assert received.display_name == "chat"
    assert received.exit_code == 0
    assert wandb_server.unknown == []
    assert files_with(tmp_path, API_KEY) == []

    # A second time: nothing new is made and nothing comes twice.
    before = received.history
    again = sft_sync(run)

    assert again.stdout == done.stdout
    assert list(wandb_server.runs) == ["run00001"]
    assert received.history == before


def test_the_events_of_a_killed_run_all_arrive_once_after_it_was_resumed(
    tmp_path: Path, wandb_server: WandbServer
) -> None:
    """Killed with SIGKILL while it logs, its last line torn, as a power cut leaves it; synced in between and after."""
    run = WrittenRun(tmp_path / "run", settings("wandb"))
    script = (
        "import sys, pathlib\n"
        "from tests.report.runs import WrittenRun, settings\n"
        "run = WrittenRun(pathlib.Path(sys.argv[1]), settings('wandb'))\n"
        "run.start()\n"
        "for step in range(1, 100_000):\n    run.train(step, step, loss=3.0)\n"
    )
    training = subprocess.Popen([sys.executable, "-c", script, str(run.directory.output_dir)])
    while not run.directory.events_jsonl.exists() or run.directory.events_jsonl.stat().st_size < 3000:
        time.sleep(0.001)
    training.kill()
    training.wait()
    assert sft_sync(run).returncode == 0
    last = [event["step"] for event in read_events(run.directory.events_jsonl) if event["event"] == "log"][-1]
    with run.directory.events_jsonl.open("a") as events:
        events.write('{"time": 1.0, "event": "log", "st')
    saved = last - 5
    run.start(step=saved)
    run.train(saved + 1, last + 3, loss=3.0)
    run.end(last + 3)

    assert sft_sync(run).returncode == 0
    assert list(wandb_server.runs) == ["run00001"]
    received = wandb_server.runs["run00001"]
    losses = {step: round(loss, 2) for step, loss in received.values("train/loss").items()}
    assert losses == {step: round(3.0 - step / 100, 2) for step in range(1, last + 4)}
    assert received.exit_code == 0


def test_what_a_run_logged_since_the_last_sync_is_added(tmp_path: Path, wandb_server: WandbServer) -> None:
    run = WrittenRun(tmp_path / "run", settings("wandb"))
    run.start()
    run.train(1, 3, loss=3.0)
    with run.directory.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sft_sync(run).returncode == 0
    received = wandb_server.runs["run00001"]
    # Step 3 waits: the run is live, and its evaluation is still to come.
    assert list(received.values("train/loss")) == [1, 2]

    run.evaluate(3, loss=2.5)
    run.train(4, 4, loss=3.0)
    run.end(4, status="failed", exit_code=5)
    assert sft_sync(run).returncode == 0

    assert list(received.values("train/loss")) == [1, 2, 3, 4]
    assert received.values("eval/loss") == {3: 2.5}
    assert received.exit_code == 5


def test_watch_follows_a_run_until_it_finishes(tmp_path: Path, wandb_server: WandbServer) -> None:
    run = WrittenRun(tmp_path / "run", settings("wandb"))
    run.start()
    run.train(1, 3, loss=3.0)
    watching = subprocess.Popen(
        [*SYNC, str(run.directory.output_dir), "--watch"],
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while "run00001" not in wandb_server.runs:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run.end(3, status="stopped", exit_code=75)
    run.start(step=1)
    run.train(2, 4, loss=2.0)
    run.end(4)
    url, _ = watching.communicate(timeout=60)

    assert url == f"{wandb_server.url}/tester/huggingface/runs/run00001\n"
    received = wandb_server.runs["run00001"]
    # What W&B has, it keeps: the first attempt's step 2. Step 3 was not closed when the run was restarted.
    losses = {step: round(loss, 2) for step, loss in received.values("train/loss").items()}
    assert losses == {1: 2.99, 2: 2.98, 3: 1.97, 4: 1.96}
    assert received.exit_code == 0


def test_an_interrupted_watch_says_that_nothing_is_lost(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run", settings("tensorboard"))
    run.start()
    run.train(1, 2, loss=3.0)
    watching = subprocess.Popen(
        [*SYNC, str(run.directory.output_dir), "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not list(run.directory.output_dir.glob("runs/run00001/*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    watching.send_signal(signal.SIGINT)
    out, said = watching.communicate(timeout=30)
    assert (watching.returncode, out) == (ExitCode.STOPPED, "")
    assert said == "Stopped. What was delivered stays; the same command delivers the rest.\n"


def test_a_server_that_refuses_is_told_in_three_lines(tmp_path: Path, wandb_server: WandbServer) -> None:
    wandb_server.refusing = True
    run = WrittenRun(tmp_path / "run", settings("wandb"))
    run.start()
    run.train(1, 2, loss=3.0)
    run.end(2)

    done = sft_sync(run)

    assert done.returncode == ExitCode.ENVIRONMENT
    assert done.stdout == ""
    what, where, fix = done.stderr.splitlines()[-3:]
    assert what.startswith("W&B did not take the run: ")
    assert where == f"  where: {run.directory.events_jsonl}"
    assert fix == f"  fix:   once that is mended: sft sync {run.directory.output_dir}"
    assert API_KEY not in done.stderr
    assert files_with(tmp_path, API_KEY) == []


def test_without_a_network_the_way_to_get_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    run = WrittenRun(tmp_path / "my run", settings("wandb"))
    run.start()
    with pytest.raises(UserError) as refused:
        sync(run.directory, None, watch=False)
    assert refused.value.exit_code == ExitCode.ENVIRONMENT
    assert str(refused.value) == (
        "W&B cannot be reached: no route to 127.0.0.1:9\n"
        f"  where: {run.directory.events_jsonl}\n"
        f"  fix:   run this where there is a network, then: sft sync '{run.directory.output_dir}'"
    )


def test_a_directory_without_events_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        sync(RunDirectory(tmp_path), None, watch=False)
    assert refused.value.exit_code == ExitCode.USAGE
    assert str(refused.value) == (
        "there are no events of a run here\n"
        f"  where: {tmp_path / '_sft' / 'events.jsonl'}\n"
        "  fix:   give the output_dir of a run that was started with `sft launch`"
    )


def test_two_syncs_do_not_write_to_one_view_at_a_time(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run", settings("tensorboard"))
    run.start()
    with claimed(run.directory, "tensorboard"), pytest.raises(UserError) as refused:
        sync(run.directory, None, watch=False)
    assert refused.value.problems[0].what.startswith(
        f"TensorBoard gets this run already, from process {os.getpid()} on "
    )
    assert sync(run.directory, None, watch=False)
