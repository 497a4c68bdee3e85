"""Several task files as one job array on a real Slurm: task N launches file N, and each run stands for itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.config.loader import load_run
from tests.slurm.cluster import Cluster
from tests.slurm.namespaces import wait_until
from tests.slurm.runs import Submitted, submitted
from tests.slurm.settings import LOGIN

pytestmark = pytest.mark.slow


def as_task(run: Submitted, seed: int) -> Submitted:
    """Write a run's file as a task file, with a mapping of its own."""
    settings = load_run(run.run_file).config.settings() | {"seed": seed}
    path = run.run_file.with_suffix(".py")
    path.write_text(
        "def mapped(row):\n    return {'messages': row['messages']}\n\n"
        f"RUN = {{**{settings!r}, 'dataset_mapping': mapped}}\n"
    )
    run.run_file.unlink()
    return Submitted(run.cluster, path, run.run, run.environment)


def test_task_n_of_the_array_launches_file_n(cluster: Cluster, tmp_path: Path, tiny_model: Path) -> None:
    tasks = [
        as_task(
            submitted(
                cluster, tmp_path, tiny_model, nodes=1, processes=1, strategy="single", name=name, max_steps=4,
                slow_seconds=0.5,
            ),
            seed,
        )
        for seed, name in enumerate(("one", "two"))
    ]  # fmt: skip
    one, two = tasks
    words = ["launch", str(one.run_file), str(two.run_file), "--on", "slurm"]
    refused = one.sft(*words, "--launch.slurm.array", '["--seed 1"]', check=False)
    assert refused.returncode == 2
    assert "is an array by itself" in refused.stderr
    done = one.sft(*words)
    jobs = done.stdout.split()
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_0", f"{array}_1"]
    assert "two.py" in done.stderr.splitlines()[-1]
    twice = one.sft(*words, check=False)
    assert twice.returncode == 2
    assert "the run has job" in twice.stderr
    for task, seed in ((one, 0), (two, 1)):
        task.until(lambda task=task: task.steps() >= 1, 120, "first step")  # type: ignore[misc]
        assert "running" in task.sft("status", str(task.run_file)).stdout
        (start,) = [event for event in task.events if event["event"] == "start"]
        assert start["config"]["seed"] == seed
        assert start["config"]["dataset_mapping"] == f"{task.run_file}:mapped"
    wait_until(lambda: not cluster.exec(LOGIN, ["squeue", "-h"]).stdout.strip(), 120, "the array is done")
    for task in tasks:
        assert json.loads(task.run.outcome_json.read_text())["status"] == "finished", task.log()
        assert "the run is done" in task.log()
        assert "step 4/4" in task.sft("logs", str(task.run_file)).stdout
    table = one.sft("table", str(one.run_file), str(two.run_file)).stdout.splitlines()
    assert [line.split()[-1] for line in table[1:]] == ["finished", "finished"]


def test_one_of_an_array_is_cancelled_by_itself(cluster: Cluster, tmp_path: Path, tiny_model: Path) -> None:
    one, two = (
        as_task(
            submitted(
                cluster, tmp_path, tiny_model, nodes=1, processes=1, strategy="single", name=name, max_steps=steps,
                slow_seconds=0.5,
            ),
            0,
        )
        for name, steps in (("one", 300), ("two", 12))
    )  # fmt: skip
    one.sft("launch", str(one.run_file), str(two.run_file), "--on", "slurm")
    one.until(lambda: one.steps() >= 2 and two.steps() >= 1, 120, "second step")
    one.sft("cancel", str(one.run_file))
    one.until(one.run.outcome_json.exists, 60, "outcome")
    assert json.loads(one.run.outcome_json.read_text())["exit_code"] == 75
    assert list(one.run.output_dir.glob("checkpoint-*"))
    wait_until(lambda: not cluster.exec(LOGIN, ["squeue", "-h"]).stdout.strip(), 120, "the array is done")
    assert json.loads(two.run.outcome_json.read_text())["status"] == "finished", two.log()


def test_the_script_of_an_array_is_submitted_by_hand(
    cluster: Cluster, tmp_path: Path, tiny_model: Path
) -> None:
    one, two = (
        submitted(
            cluster, tmp_path, tiny_model, nodes=1, processes=1, strategy="single", name=name, max_steps=1,
            launch={"slurm": {"array_at_once": 1}},
        )
        for name in ("one", "two")
    )  # fmt: skip
    script = one.sft("launch", str(one.run_file), str(two.run_file), "--on", "slurm", "--dry-run").stdout
    assert script == (one.run.kit / "job.sbatch").read_text()
    assert "#SBATCH --array=0-1%1\n" in script
    by_hand = tmp_path / "array.sbatch"
    by_hand.write_text(script)
    cluster.exec(LOGIN, ["sbatch", "--parsable", str(by_hand)], env=one.environment)
    wait_until(lambda: not cluster.exec(LOGIN, ["squeue", "-h"]).stdout.strip(), 120, "the array is done")
    assert (one.steps(), two.steps()) == (1, 1)
