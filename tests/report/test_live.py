"""The processes beside rank 0: a view may be slow, refuse or be gone, and training goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.report.live import LiveViews
from tests.loopback.wandb import API_KEY, WandbServer, wandb_server
from tests.report.runs import WrittenRun, settings

__all__ = ["wandb_server"]
RANK_ZERO = """
import sys, time
from pathlib import Path
from sft.report.live import LiveViews
from sft.rundir import RunDirectory
LiveViews(RunDirectory(Path(sys.argv[1])), ["wandb"])
time.sleep(120)
"""


def wait_until(condition: object, seconds: float = 30) -> None:
    """Wait for a callable to become true."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def processes_of(run: WrittenRun) -> list[str]:
    """The command lines of processes that name the run directory, or that were started in its session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                variables = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(run.directory.output_dir) in words or f"TEST_RUN={run.directory.output_dir}" in variables:
                found.append(words)
    return found


def test_a_live_run_reaches_wandb_and_a_restart_fills_what_was_missed(
    tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = WrittenRun(tmp_path / "run", settings("wandb", run_name="chat"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    run.start()
    views = LiveViews(run.directory, ["wandb"])
    run.train(1, 3, loss=3.0)
    run.end(3, status="failed", exit_code=6)
    views.finish()
    assert run.notes() == [
        "W&B: offline (no route to 127.0.0.1:9). Later, where there is a network: "
        f"sft sync {run.directory.output_dir}"
    ]

    monkeypatch.setenv("WANDB_BASE_URL", wandb_server.url)
    monkeypatch.setenv("WANDB_LOG_MODEL", "end")
    run.start(step=2)
    views = LiveViews(run.directory, ["wandb"])
    wait_until(lambda: "run00001" in wandb_server.runs)
    run.train(3, 5, loss=2.0)
    run.evaluate(5, loss=1.5)
    run.end(5, status="stopped", exit_code=75)
    views.finish()

    received = wandb_server.runs["run00001"]
    losses = {step: round(loss, 2) for step, loss in received.values("train/loss").items()}
    assert losses == {1: 2.99, 2: 2.98, 3: 1.97, 4: 1.96, 5: 1.95}
    assert received.values("eval/loss") == {5: 1.5}
    assert (received.exit_code, received.preempting) == (75, True)
    assert [row["_timestamp"] for row in received.history] == sorted(
        row["_timestamp"] for row in received.history
    )
    assert run.notes()[1:] == [
        "W&B: WANDB_LOG_MODEL is not followed. Metrics go there; the model goes to the Hub (push_to_hub)."
    ]
    assert wandb_server.unknown == []
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and API_KEY.encode() in path.read_bytes()
    ]


def test_who_disables_wandb_hears_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = WrittenRun(tmp_path / "run", settings("wandb"))
    run.start()
    views = LiveViews(run.directory, ["wandb"])
    run.end(1)
    views.finish()
    assert run.notes() == []


@pytest.mark.parametrize("moment", ["at the start", "at the end"])
def test_a_server_that_does_not_answer_costs_a_bounded_time(
    moment: str, tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = WrittenRun(tmp_path / "run", settings("wandb"))
    monkeypatch.setenv("TEST_RUN", str(run.directory.output_dir))
    wandb_server.answering = moment == "at the end"
    run.start()
    before = time.monotonic()
    views = LiveViews(run.directory, ["wandb"])
    assert time.monotonic() - before < 1
    run.train(1, 2, loss=3.0)
    if moment == "at the end":
        wait_until(lambda: "run00001" in wandb_server.runs)
        wandb_server.answering = False
    run.end(2)
    before = time.monotonic()
    views.finish(limit_seconds=4)
    assert time.monotonic() - before < 6
    assert run.notes() == [
        "W&B: not everything was delivered within 4 s. Later, where there is a network: "
        f"sft sync {run.directory.output_dir}"
    ]
    monkeypatch.delenv("TEST_RUN")
    wait_until(lambda: processes_of(run) == [], seconds=10)


def test_a_server_that_refuses_becomes_one_note(tmp_path: Path, wandb_server: WandbServer) -> None:
    wandb_server.refusing = True
    run = WrittenRun(tmp_path / "run", settings("wandb"))
    run.start()
    views = LiveViews(run.directory, ["wandb"])
    run.end(1)
    views.finish()
    (said,) = run.notes()
    assert said.startswith("W&B: ")
    assert said.endswith(f". Later, where there is a network: sft sync {run.directory.output_dir}")


def test_a_view_leaves_with_rank_zero_and_not_before(
    tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = WrittenRun(tmp_path / "run", settings("wandb"))
    run.start()
    run.train(1, 2, loss=3.0)
    environment = {**os.environ, "TEST_RUN": str(run.directory.output_dir)}
    rank = subprocess.Popen([sys.executable, "-c", RANK_ZERO, str(run.directory.output_dir)], env=environment)
    wait_until(lambda: "run00001" in wandb_server.runs)
    assert len(processes_of(run)) >= 3  # rank 0, its view, wandb-core
    rank.send_signal(signal.SIGKILL)
    rank.wait()
    wait_until(lambda: processes_of(run) == [], seconds=10)
