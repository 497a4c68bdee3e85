"""What happens to a run on two nodes when its time is over, when it is preempted, and when nodes are lost.

Each goes on, without anybody's doing, to the weights of the run that was never disturbed; or ends, and says why.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.wandb import API_KEY
from tests.slurm import table
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import job_record, submit
from tests.slurm.runs import SFT, Submitted, submitted, weights
from tests.slurm.settings import LOGIN

pytestmark = pytest.mark.slow
STEPS, EVERY = 40, 5
# One rank a node is enough where nodes and jobs are what fails, and leaves the cores to what is waited for.
SETTINGS: dict[str, Any] = {
    "strategy": "zero2", "processes": 1, "max_steps": STEPS, "save_steps": EVERY, "slow_seconds": 0.5,
}  # fmt: skip
# Too slow for two minutes, until it is resumed: two starts are enough to see.
TOO_SLOW: dict[str, Any] = {"slow_seconds": 3.0, "environment": {"SLOW_ONCE": "1"}, "save_steps": 100}
Build = Callable[..., Submitted]
Fault = Callable[[Cluster, str], None]
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, bytes]:
    """Train the run that nothing disturbs, and return its weights."""
    place = tmp_path_factory.mktemp("whole")
    run = submitted(cluster, place, tiny_model, **{**SETTINGS, "slow_seconds": 0.0})
    assert run.ended(run.submit(), 180)["ExitCode"] == "0:0", run.log()
    return weights(run.run)


@pytest.fixture
def build(cluster: Cluster, tmp_path: Path, tiny_model: Path) -> Build:
    return lambda **more: submitted(cluster, tmp_path, tiny_model, **{**SETTINGS, **more})


def step_is_done(run: Submitted, number: int) -> None:
    run.until(lambda: run.steps() >= number, 150, f"step {number}")


def goes_on(
    run: Submitted, job: str, fault: str, since: float, whole: dict[str, bytes], *, limit: float = 300
) -> None:
    """Assert that the run goes on by itself to the same weights as one run, and record what the fault has cost."""
    assert run.ended(job, limit)["ExitCode"] == "0:0", run.log()
    assert weights(run.run) == whole
    assert sorted(run.losses) == list(range(1, STEPS + 1))
    events = [event for event in run.events if event["event"] == "log" and "loss" in event]
    starts = [event for event in run.events if event["event"] == "start"]
    assert len(starts) > 1
    assert len({event["run_id"] for event in starts}) == 1
    again = len(events) - STEPS
    first = next(event["time"] for event in events if event["time"] > max(since, starts[1]["time"]))
    table.record(
        fault, again=again, seconds=first - since, end="done, with the weights of an undisturbed one"
    )
    assert run.strays() == []


def test_a_time_limit_shorter_than_the_run(build: Build, whole: dict[str, bytes]) -> None:
    run = build(launch={"time_limit": "00:02:00", "leave_seconds": 8}, **TOO_SLOW)
    job = run.submit()
    run.until(lambda: "goes back into the queue" in run.log(), 180, "requeue")
    since = time.time()
    goes_on(run, job, "time limit", since, whole, limit=500)
    starts = run.book.starts
    assert all(start.code == 75 for start in starts[:-1])
    assert starts[-1].code == 0
    assert [start.begun for start in starts[1:]] == [start.ended for start in starts[:-1]]
    # Not one step twice: it stopped in time, and saved.
    logged = [event["step"] for event in run.events if event["event"] == "log" and "loss" in event]
    assert logged == list(range(1, STEPS + 1))


@pytest.mark.parametrize("grace", [0, 10])
def test_preempted_by_a_higher_partition(
    grace: int, cluster: Cluster, build: Build, whole: dict[str, bytes]
) -> None:
    cluster.exec(LOGIN, ["scontrol", "update", "PartitionName=spot", f"GraceTime={grace}"])
    run = build(launch={"slurm": {"partition": "spot"}})
    job = run.submit()
    step_is_done(run, 8)
    since = time.time()
    submit(cluster, "#!/bin/sh\nsleep 5\n", "--partition=main", "--nodes=2", "--exclusive")
    goes_on(run, job, f"preempted, GraceTime {grace}", since, whole)


def test_scancel(build: Build, cluster: Cluster) -> None:
    run = build()
    job = run.submit()
    step_is_done(run, 8)
    cluster.exec(LOGIN, ["scancel", job])
    assert run.ended(job)["JobState"] == "CANCELLED"
    run.until(lambda: not run.strays(), 15, "end of every process")
    outcome = run.run.outcome_json.read_text()
    assert '"exit_code": 75' in outcome, run.log()
    saved = max(int(path.name.split("-")[1]) for path in run.run.output_dir.glob("checkpoint-*"))
    assert saved >= 8, "it saved before KillWait was over"
    table.record(
        "scancel", again=None, seconds=None, end="saved and ended; goes on when it is submitted again"
    )


def test_cancelled_in_order(build: Build) -> None:
    run = build(save_steps=100)
    job = run.submit()
    step_is_done(run, 3)
    assert f"job {job} saves a checkpoint and ends" in run.sft("cancel", str(run.run_file)).stderr
    assert run.ended(job)["ExitCode"] == "75:0"
    assert "ended at step" in run.log()
    assert "with 75: the job was cancelled; the run continues when it is submitted again" in run.log()
    assert list(run.run.output_dir.glob("checkpoint-*"))


def kill_rank(run: Submitted, rank: int) -> None:
    """Kill a rank of the second node."""
    mine = [
        process
        for process in run.cluster.all_processes_on("node2")
        if "sft.training.train" in process.cmdline()
        and process.environ().get("RANK") == str(rank)
        and "accelerate" not in " ".join(process.cmdline())
    ]
    mine[0].kill()


def test_a_rank_that_is_killed_ends_the_run_and_is_named(build: Build) -> None:
    run = build(processes=2)
    job = run.submit()
    step_is_done(run, 8)
    since = time.time()
    kill_rank(run, 3)
    ended = run.ended(job, 60)
    seconds = time.time() - since
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "6:0"), run.log()
    assert "machine 1: rank 3 was killed by SIGKILL in the phase 'train'" in run.log()
    assert "with 6: a worker was lost; `--max-restarts N` starts again inside the job" in run.log()
    assert run.strays() == []
    table.record(
        "a rank killed",
        again=None,
        seconds=None,
        end=f"ended with 6 after {seconds:.0f} s, and names the rank",
    )


def test_a_rank_that_is_killed_is_started_again_inside_the_job(build: Build, whole: dict[str, bytes]) -> None:
    run = build()
    job = run.submit("--max-restarts", "2")
    step_is_done(run, 8)
    since = time.time()
    kill_rank(run, 1)
    goes_on(run, job, "a rank killed, with --max-restarts", since, whole)


@pytest.mark.parametrize(
    ("fault", "act", "mend"),
    [
        pytest.param("a node powered off, and on again", Cluster.crash, Cluster.boot, id="power"),
        pytest.param("slurmd killed, and started again", Cluster.kill_slurmd, Cluster.boot, id="slurmd"),
        pytest.param("a link cut, and mended", Cluster.cut, Cluster.mend, id="link"),
    ],
)
def test_a_node_is_lost(
    fault: str, act: Fault, mend: Fault, build: Build, cluster: Cluster, whole: dict[str, bytes]
) -> None:
    run = build()
    job = run.submit()
    step_is_done(run, 8)
    since = time.time()
    act(cluster, "node2")
    run.until(lambda: job_record(cluster, job)["JobState"] != "RUNNING", 60, "word from Slurm")
    mend(cluster, "node2")
    goes_on(run, job, fault, since, whole)


def test_a_run_that_comes_no_further_stops_going_back(build: Build, cluster: Cluster) -> None:
    run = build(slow_seconds=60.0)
    job = run.submit()
    node_1 = run.run.logs / "node-1.log"

    def meetings() -> int:
        said = node_1.read_text() if node_1.exists() else ""
        return said.count("machine 1 has come to machine 0")

    for _ in range(2):
        before = meetings()
        run.until(lambda before=before: meetings() > before, 90, "meeting of the nodes")
        cluster.exec(LOGIN, ["scancel", "--batch", "--signal=USR1", job])
    assert run.ended(job)["ExitCode"] == "75:0", run.log()
    assert "2 starts in a row came no further than the start" in run.log()


def test_a_run_that_was_requeued_is_one_run_in_wandb(build: Build, cluster: Cluster) -> None:
    run = build(report_to="wandb", launch={"offline": True}, max_steps=12)
    run.sft("fetch", str(run.run_file))
    job = run.submit()
    step_is_done(run, 4)
    cluster.exec(LOGIN, ["scancel", "--batch", "--signal=USR1", job])
    assert run.ended(job)["ExitCode"] == "0:0", run.log()
    assert len(run.book.starts) == 2
    words = [sys.executable, "-m", "tests.slurm.login_wandb"]
    server = cluster.popen(LOGIN, words, cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert server.stdout is not None
    online = {
        "WANDB_BASE_URL": server.stdout.readline().strip(),
        "WANDB_API_KEY": API_KEY,
        "WANDB_MODE": "online",
    }
    cluster.exec(
        LOGIN, [SFT, "sync", str(run.run.output_dir)], env={**run.environment, **online}, timeout=120
    )
    server.terminate()
    left, _ = server.communicate(timeout=30)
    assert list(json.loads(left).values()) == [list(range(1, 13))]


def test_chained_jobs_where_requeueing_is_forbidden(
    build: Build, cluster: Cluster, whole: dict[str, bytes]
) -> None:
    run = build(
        launch={"time_limit": "00:02:00", "leave_seconds": 8, "slurm": {"requeue": False}}, **TOO_SLOW
    )
    run.submit("--chain", "4")
    jobs = run.book.chain
    assert len(jobs) == 4
    for job in jobs:
        assert run.ended(job, 240)["JobState"] in ("COMPLETED", "FAILED")
    assert weights(run.run) == whole
    assert run.log().count("the run is done already") >= 1
    assert [start.code for start in run.book.starts if start.code != 75] == [0]
    table.record(
        "time limit, with --chain", again=0, seconds=None, end="done, with the weights of an undisturbed one"
    )
