"""`sft launch --on slurm` on a real Slurm: one node, two nodes, what it says and what it leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.jobs import job_record, wait_for_state
from tests.slurm.runs import Submitted, submitted, weights
from tests.slurm.settings import LOGIN

STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")


def test_a_run_on_two_nodes_trains_and_says_where_it_stands(
    cluster: Cluster, tmp_path: Path, tiny_model: Path
) -> None:
    run = submitted(cluster, tmp_path, tiny_model, slow_seconds=0.3)
    job = run.submit()
    record = job_record(cluster, job)
    assert record["JobName"] == "run"
    assert record["NumNodes"] == "2-2" or record["NumNodes"] == "2"
    twice = run.sft("launch", str(run.run_file), "--on", "slurm", check=False)
    assert twice.returncode == 2
    assert f"the run has job {job} already" in twice.stderr
    run.until(lambda: run.steps() >= 2, 90, "second step")
    status = run.sft("status", str(run.run_file)).stdout
    assert re.search(rf"job +{job}  running  on node\[1-2\]  \d\d:\d\d:\d\d left of its time", status), status
    assert re.search(r"training +step \d/8  loss \d\.\d+", status), status
    ended = run.ended(job)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), run.log()
    assert sorted(run.losses) == list(range(1, 9))
    assert run.log().rstrip().endswith(f"job {job} ended at step 8 with 0: the run is done")
    assert "step 8/8" in run.log()
    # Each node has a log of its own, and the job's shows the first node's.
    assert "machine 1 has come to machine 0 at node1:" in (run.run.logs / "node-1.log").read_text()
    assert "step 8/8" in (run.run.logs / "node-0.log").read_text()
    assert {json.loads(path.read_text())["host"] for path in run.run.ranks.glob("*.json")} == {
        "node1",
        "node2",
    }
    assert run.strays() == []
    assert cluster.outside_attempts() == []
    status = run.sft("status", str(run.run.output_dir), "--json").stdout
    assert json.loads(status)["outcome"] == {"status": "finished", "exit_code": 0, "step": 8}
    assert "step 8/8" in run.sft("logs", str(run.run_file)).stdout
    assert run.sft("watch", str(run.run_file)).returncode == 0


def test_a_script_that_was_printed_is_submitted_by_hand(
    cluster: Cluster, tmp_path: Path, tiny_model: Path
) -> None:
    run = submitted(
        cluster, tmp_path, tiny_model, nodes=1, processes=1, strategy="single", max_steps=2, save_steps=2
    )
    script = run.sft("launch", str(run.run_file), "--on", "slurm", "--dry-run").stdout
    assert script == (run.run.kit / "job.sbatch").read_text()
    by_hand = tmp_path / "job.sbatch"
    by_hand.write_text(script)
    # Another allocation than the run file's is refused before anything is loaded.
    other = cluster.exec(
        LOGIN, ["sbatch", "--parsable", "--nodes=2", str(by_hand)], env=run.environment
    ).stdout.strip()
    assert run.ended(other)["ExitCode"] == "2:0"
    assert "the job has 2 nodes, and the run file asks for 1" in run.log()
    job = cluster.exec(LOGIN, ["sbatch", "--parsable", str(by_hand)], env=run.environment).stdout.strip()
    assert run.ended(job)["ExitCode"] == "0:0", run.log()
    assert run.steps() == 2
    # A job that finds the run done has nothing to do.
    job = cluster.exec(LOGIN, ["sbatch", "--parsable", str(by_hand)], env=run.environment).stdout.strip()
    assert run.ended(job)["ExitCode"] == "0:0"
    assert "the run is done already, at step 2" in run.log()


def test_hostile_values_stay_what_they_are(cluster: Cluster, tmp_path: Path, tiny_model: Path) -> None:
    hostile = 'it\'s "a" $(touch broken) `touch broken`; touch broken #1 \\ %j'
    place = tmp_path / "run $(touch broken) 'quoted' #2"
    run = submitted(
        cluster, place, tiny_model, nodes=1, processes=1, strategy="single", max_steps=1,
        name="out put; touch broken", run_name=hostile,
        launch={"slurm": {"extra": [f"--comment={hostile}"]}, "setup": ["export SITE='a b'", 'echo "site: $SITE"']},
    )  # fmt: skip
    job = run.submit("--seed", "7")
    assert job_record(cluster, job)["JobName"] == hostile
    assert job_record(cluster, job)["Comment"] == hostile
    ended = run.ended(job)
    assert ended["ExitCode"] == "0:0", run.log()
    assert "site: a b" in run.log()
    assert not [
        path for path in (tmp_path, place, run.run.output_dir, Path.cwd()) if (path / "broken").exists()
    ]


@pytest.fixture(scope="module")
def one(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Submitted:
    """One process, which the strategies are held against."""
    place = tmp_path_factory.mktemp("one")
    run = submitted(cluster, place, tiny_model, nodes=1, processes=1, strategy="single")
    assert run.ended(run.submit(), 240)["ExitCode"] == "0:0", run.log()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_nodes_train_as_one_process_does(
    strategy: str, one: Submitted, cluster: Cluster, tmp_path: Path, tiny_model: Path
) -> None:
    two = submitted(cluster, tmp_path, tiny_model, strategy=strategy)
    assert two.ended(two.submit(), 240)["ExitCode"] == "0:0", two.log()
    assert list(two.losses) == list(one.losses)
    # The sums over the rows are taken in another order.
    assert list(two.losses.values()) == pytest.approx(list(one.losses.values()), abs=1e-5)
    assert weights(two.run).keys() == weights(one.run).keys()


def test_a_job_that_waits_is_cancelled_and_can_be_submitted_again(
    cluster: Cluster, tmp_path: Path, tiny_model: Path
) -> None:
    run = submitted(cluster, tmp_path, tiny_model, launch={"slurm": {"extra": ["--begin=now+1hour"]}})
    job = run.submit()
    status = run.sft("status", str(run.run_file)).stdout
    soon = r"expected to start in (00:59:\d\d|01:00:00)"
    assert re.search(rf"job +{job}  pending  \(BeginTime\)  {soon}", status), status
    told = run.sft("cancel", str(run.run_file)).stderr
    assert told.splitlines()[-1] == f"job {job} is cancelled: it had not begun"
    wait_for_state(cluster, job, ["CANCELLED"])
    assert run.sft("cancel", str(run.run_file), check=False).returncode == 2
    again = run.submit()
    run.sft("cancel", str(run.run_file), "--now")
    wait_for_state(cluster, again, ["CANCELLED"])


@pytest.mark.slow
def test_two_jobs_on_one_node_meet_at_ports_of_their_own(
    cluster: Cluster, tmp_path: Path, tiny_model: Path
) -> None:
    """And the second one's wrapper stands before what is launched, its model is a link behind a variable."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(tiny_model)
    link = Path("$MODELS/tiny")
    wrapper = tmp_path / "site wrapper"
    wrapper.write_text(f'#!/bin/sh\necho "$SLURM_NODEID $1" >>"{tmp_path}/wrapped"\nshift\nexec "$@"\n')
    wrapper.chmod(0o755)
    runs = [
        submitted(
            cluster, tmp_path / name, link if name == "b" else tiny_model, processes=1, slow_seconds=1.0,
            launch={"wrap": f"'{wrapper}' --nv" if name == "b" else ""},
            environment={"MODELS": str(tmp_path / "models")},
        )
        for name in ("a", "b")
    ]  # fmt: skip
    jobs = [run.submit() for run in runs]
    for run in runs:
        run.until(lambda run=run: run.steps() >= 1, 120, "first step")
    assert [job_record(cluster, job)["JobState"] for job in jobs] == ["RUNNING"] * 2, "at the same time"
    for run, job in zip(runs, jobs, strict=True):
        assert run.ended(job)["ExitCode"] == "0:0", run.log()
    ports = [re.search(r"at node1:(\d+)", (run.run.logs / "node-1.log").read_text()) for run in runs]
    assert len({port[1] for port in ports if port}) == 2
    assert sorted((tmp_path / "wrapped").read_text().splitlines()) == ["0 --nv", "1 --nv"]
