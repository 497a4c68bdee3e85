"""`sft configure --site` on a real Slurm."""

from __future__ import annotations

import sys
from pathlib import Path

from sft.config.loader import load_run
from tests.slurm.cluster import Cluster
from tests.slurm.settings import LOGIN

SFT = str(Path(sys.executable).with_name("sft"))


def test_the_site_file_is_one_that_a_run_takes(cluster: Cluster, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    done = cluster.exec(LOGIN, [SFT, "configure", "--site", "--output", str(site)])
    assert done.stdout == f"{site}\n"
    words = ["--model_name_or_path", "m", "--dataset_name", "d"]
    launch = load_run(None, words, environment={"SFT_SITE": str(site)}).config.launch
    assert (launch.gpus_per_node, launch.slurm.partition, launch.slurm.cpus_per_task) == (8, "main", 16)
    spot = cluster.exec(LOGIN, [SFT, "configure", "--site", "--partition", "spot"]).stdout
    assert "    partition: spot\n" in spot
