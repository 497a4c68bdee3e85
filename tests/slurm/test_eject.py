"""Ejected files under a real Slurm: two nodes, each with its own machine rank, train what one process of the kit trains."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.launch.test_ejected_runs import BASE, NO_KIT, STEPS, shell
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import job_output, submit, wait_for_state
from tests.training.launching import launch, succeeded

TOLERANCE = 2e-3
"""Between one process and four, as in tests/training/test_matrix.py."""


@pytest.mark.slow
def test_a_job_of_two_nodes_trains_without_the_kit(
    cluster: Cluster, tiny_model: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        **BASE,
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tiny.write_chats(tmp_path / "chats.jsonl", 80)),
        "assistant_only_loss": True,
        "per_device_train_batch_size": 2,
        "learning_rate": 2e-3,
        "output_dir": str(tmp_path / "theirs"),
    }
    one = succeeded(
        launch(tmp_path / "ours", {**settings, "launch": {"device": "cpu"}}, "--processes_per_node", "1")
    )
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(NO_KIT)
    setup = [
        f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={hidden} GUARDED={tmp_path / 'guarded'}",
        f"export HF_DATASETS_CACHE={tmp_path / 'datasets'}",
    ]
    two = {
        "device": "cpu",
        "nodes": 2,
        "processes_per_node": 2,
        "time_limit": "10",
        "setup": setup,
        "slurm": {"job_name": "it's ejected", "cpus_per_task": 2},
    }
    (tmp_path / "run.yaml").write_text(json.dumps({**settings, "launch": two}))
    ejected = shell("sft eject run.yaml --output stock", tmp_path)
    assert ejected.returncode == 0, ejected.stderr
    job = submit(cluster, tmp_path / "stock" / "job.sbatch", cwd=tmp_path, env=dict(os.environ))
    record = wait_for_state(cluster, job, "COMPLETED", timeout=300)
    assert (record["JobName"], record["NumNodes"], record["Requeue"]) == ("it's ejected", "2", "0")
    assert record["StdOut"] == str(tmp_path / "stock" / f"job-{job}.log")
    output = job_output(cluster, job)
    assert output.count("Training completed") == 2  # TRL says so once a node
    assert set((tmp_path / "guarded").read_text().split()) >= {"0", "1", "2", "3"}
    state = json.loads((tmp_path / "theirs" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    losses = [log["loss"] for log in state["log_history"] if "loss" in log]
    assert losses == pytest.approx(one.losses, abs=TOLERANCE)
