"""A site file from what Slurm says; tests/slurm/test_site.py asks a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.config.loader import load_run
from sft.errors import UserError
from sft.launch.site import accounts, interfaces, partitions, site_text

SINFO = """\
debug*|30:00|2|(null)|64|257000
gpu|2-00:00:00|18|gpu:a100:4(S:0-1)|128|512000+
gpu|2-00:00:00|4|gpu:a100:8(S:0-3),nvme:1|128|1024000
"""


def ask(command: list[str]) -> str:
    told = {
        "sinfo": SINFO,
        "sacctmgr": "physics\nphysics\nbiology\n",
        "ip": "1: lo    inet 127.0.0.1/8 scope host lo\n4: ib0    inet 10.1.0.7/16 brd 10.1.255.255 scope global ib0\n",
    }
    return told[command[0]]


def test_the_partition_with_gpus_is_taken_as_its_smallest_node_has_it(tmp_path: Path) -> None:
    text = site_text(partitions(ask), accounts("me", ask), interfaces(ask))
    assert (
        text
        == """\
# A group's defaults for `launch:`; a run file wins over them, and flags over both.
# Written by: sft configure --site. Use it: export SFT_SITE=/path/to/this/file
# Partitions that Slurm shows:
#   debug: 2 nodes with 0 GPUs ((null)), 64 cores, 251 GiB; time limit 30:00
#   gpu: 22 nodes with 4 GPUs (gpu:a100:4(S:0-1)), 128 cores, 500 GiB; time limit 2-00:00:00
launch:
  gpus_per_node: 4
  network_interface: ib0  # this machine's; look on a compute node: ip -4 addr
  # setup: ["module load cuda", "source /path/to/conda.sh", "conda activate peft"]
  # time_limit: "2-00:00:00"  # the longest there
  slurm:
    partition: gpu
    account: physics  # or biology
    cpus_per_task: 128
    mem: '0'  # all of a node's
"""
    )
    site = tmp_path / "site.yaml"
    site.write_text(text)
    run = ["--model_name_or_path", "m", "--dataset_name", "d"]
    launch = load_run(None, run, environment={"SFT_SITE": str(site)}).config.launch
    assert (launch.gpus_per_node, launch.network_interface) == (4, "ib0")
    assert (launch.slurm.partition, launch.slurm.account, launch.slurm.mem) == ("gpu", "physics", "0")


def test_another_partition_is_named_and_one_that_is_not_there_is_refused() -> None:
    text = site_text(partitions(ask), [], None, name="debug")
    assert "  device: cpu\n" in text
    assert "    partition: debug\n    cpus_per_task: 64\n" in text
    with pytest.raises(UserError) as caught:
        site_text(partitions(ask), [], None, name="fast")
    assert (
        str(caught.value) == "there is no partition fast\n  where: --partition\n  fix:   one of: debug, gpu"
    )


def test_a_slurm_that_says_nothing() -> None:
    with pytest.raises(UserError, match="Slurm does not say which partitions there are"):
        partitions(lambda command: "")
