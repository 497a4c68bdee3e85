"""`sft check --on slurm` holds a job against a real Slurm, and what it refuses, sbatch does not run either."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.settings import LOGIN

SFT = str(Path(sys.executable).with_name("sft"))
ASKED = {"nodes": 2, "gpus_per_node": 8, "time_limit": "1-00:00:00"}


def said(
    cluster: Cluster, tmp_path: Path, model: Path, chats: Path, slurm: dict[str, Any], **launch: Any
) -> list[tuple[str, str]]:
    """Check a run on the login node, and return what Slurm's check says: gravity and words."""
    run = tmp_path / "run.yaml"
    settings = {
        "model_name_or_path": str(model),
        "dataset_name": str(chats),
        "max_length": 64,
        "report_to": "none",
        "output_dir": str(tmp_path / "out"),
        "data_cache": str(tmp_path / "prepared"),
        "launch": {**ASKED, **launch, "slurm": slurm},
    }
    run.write_text(json.dumps(settings))
    done = cluster.exec(LOGIN, [SFT, "check", str(run), "--on", "slurm", "--json"], check=False)
    document = json.loads(done.stdout)
    return [(one["gravity"], one["what"]) for one in document["findings"] if one["check"] == "Slurm"]


def test_what_the_cluster_has_is_let_through(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    assert said(cluster, tmp_path, tiny_model, tiny_chats, {"partition": "main"}) == []
    everything = {
        "gres": "gpu:fake:8",
        "cpus_per_task": 16,
        "mem": "60G",
        "nodelist": "node[1-2]",
        "account": "any",
    }
    assert said(cluster, tmp_path, tiny_model, tiny_chats, everything) == []
    assert said(cluster, tmp_path, tiny_model, tiny_chats, {"partition": "spot,urgent"}) == []


@pytest.mark.parametrize(
    ("slurm", "launch", "told"),
    [
        ({"partition": "gpu"}, {}, "there is no partition gpu on this cluster"),
        (
            {},
            {"time_limit": "1-00:00:01"},
            "time_limit 1-00:00:01 is longer than partition main lets a job run, 1-00:00:00: the job would wait for ever",
        ),
        ({}, {"gpus_per_node": 9}, "no node of partition main has 9 GPUs"),
        ({"gres": "gpu:a100:8"}, {}, "no node of partition main has 8 GPUs of type a100"),
        ({}, {"nodes": 3}, "partition main has 2 nodes, and 3 are asked for"),
        ({"cpus_per_task": 17}, {}, "no node of partition main has 17 cores"),
        ({"mem": "64G"}, {}, "no node of partition main has 64G of memory"),
        ({"constraint": "a100"}, {}, "no node of partition main has the feature a100"),
        ({"reservation": "course"}, {}, "there is no reservation course"),
        ({"nodelist": "node[2-3]"}, {}, "partition main has no node node3"),
        ({"exclude": "node1"}, {}, "only 1 node of partition main is not excluded, and 2 are asked for"),
    ],
)  # fmt: skip
def test_what_it_has_not_is_refused_before_it_is_submitted(
    cluster: Cluster,
    tmp_path: Path,
    tiny_model: Path,
    tiny_chats: Path,
    slurm: dict[str, Any],
    launch: dict[str, Any],
    told: str,
) -> None:
    assert said(cluster, tmp_path, tiny_model, tiny_chats, slurm, **launch) == [("error", told)]


def test_a_node_that_is_drained_keeps_the_job_waiting(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    cluster.exec(LOGIN, ["scontrol", "update", "nodename=node2", "state=drain", "reason=test"])
    try:
        found = said(cluster, tmp_path, tiny_model, tiny_chats, {})
        assert [gravity for gravity, _ in found] == ["warning"]
        assert found[0][1].startswith(
            "1 of the 2 nodes of partition main that fit are up, and 2 are asked for"
        )
    finally:
        cluster.exec(LOGIN, ["scontrol", "update", "nodename=node2", "state=resume"])


def test_a_reservation_is_for_those_it_names(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    words = ["starttime=now", "duration=60", "nodes=node1"]
    for name, user in (("ours", "root"), ("theirs", "nobody")):
        flags = [*words, "flags=overlap"]
        cluster.exec(
            LOGIN, ["scontrol", "create", "reservation", f"reservationname={name}", f"users={user}", *flags]
        )
    try:
        assert said(cluster, tmp_path, tiny_model, tiny_chats, {"reservation": "ours"}) == []
        found = said(cluster, tmp_path, tiny_model, tiny_chats, {"reservation": "theirs"})
        assert found == [("error", "reservation theirs is for nobody, and not for root")]
    finally:
        for name in ("ours", "theirs"):
            cluster.exec(LOGIN, ["scontrol", "delete", f"reservationname={name}"])


def test_a_partition_that_is_drained_takes_no_job(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, tiny_chats: Path
) -> None:
    cluster.exec(LOGIN, ["scontrol", "update", "partitionname=spot", "state=drain"])
    try:
        found = said(cluster, tmp_path, tiny_model, tiny_chats, {"partition": "spot"})
        assert found == [("error", "partition spot takes no jobs: its state is DRAIN")]
    finally:
        cluster.exec(LOGIN, ["scontrol", "update", "partitionname=spot", "state=up"])
