"""Broken setups: batch jobs that Slurm refuses, or lets wait for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.check.corpus.bench import Bench, Broken
from tests.check.slurm import install

SBATCH = "https://slurm.schedmd.com/sbatch.html"
CONF = "https://slurm.schedmd.com/slurm.conf.html"
REASONS = "https://slurm.schedmd.com/job_reason_codes.html"


def job(
    *, cluster: dict[str, Any] | None = None, launch: dict[str, Any] | None = None, **slurm: Any
) -> Callable[[Bench], object]:
    """Return what submits a run on one node with four GPUs to the partition `gpu`, but for what is said otherwise."""

    def build(bench: Bench) -> None:
        install(bench.directory, bench.monkeypatch, **(cluster or {}))
        bench.on, bench.in_batch = "slurm", True
        wanted = {"gpus_per_node": 4, "time_limit": "04:00:00", **(launch or {})}
        bench.launch(**wanted, slurm={"partition": "gpu", **slurm})

    return build


BROKEN = (
    Broken(
        "a partition that is not there",
        "https://github.com/TUM-DAML/seml/issues/42",
        "there is no partition gpu-long on this cluster",
        "Slurm",
        job(partition="gpu-long"),
    ),
    Broken(
        "a partition that is drained",
        CONF,
        "partition gpu takes no jobs: its state is DRAIN",
        "Slurm",
        job(cluster={"gpu": {"state": "DRAIN"}}),
    ),
    Broken(
        "a time limit above the partition's",
        REASONS,
        "time_limit 2-00:00:00 is longer than partition gpu lets a job run, 1-00:00:00",
        "Slurm",
        job(launch={"time_limit": "2-00:00:00"}),
    ),
    Broken(
        "more nodes than a job may have",
        "https://github.com/firemodels/fds/issues/8639",
        "6 nodes are asked for, and a job in partition gpu may have 4",
        "Slurm",
        job(launch={"nodes": 6}),
    ),
    Broken(
        "more GPUs than a node has",
        SBATCH,
        "no node of partition gpu has 8 GPUs",
        "Slurm",
        job(launch={"gpus_per_node": 8}),
    ),
    Broken(
        "GPUs of a type that is not there",
        "https://github.com/ResearchComputing/Documentation/pull/562",
        "no node of partition gpu has 4 GPUs of type h100",
        "Slurm",
        job(gres="gpu:h100:4"),
    ),
    Broken(
        "GPUs from the default partition, which has none",
        SBATCH,
        "no node of partition cpu has 4 GPUs",
        "Slurm",
        job(partition=None),
    ),
    Broken(
        "more cores than a node has",
        SBATCH,
        "no node of partition gpu has 256 cores",
        "Slurm",
        job(cpus_per_task=256),
    ),
    Broken(
        "more memory than a node has",
        SBATCH,
        "no node of partition gpu has 600G of memory",
        "Slurm",
        job(mem="600G"),
    ),
    Broken(
        "a feature that no node has",
        SBATCH,
        "no node of partition gpu has the feature h100",
        "Slurm",
        job(constraint="h100"),
    ),
    Broken(
        "too many nodes left out",
        SBATCH,
        "only 1 node of partition gpu is not excluded, and 2 are asked for",
        "Slurm",
        job(exclude="gpu[1-7]", launch={"nodes": 2}),
    ),
    Broken(
        "nodes of another partition",
        SBATCH,
        "partition gpu has no node gpu20, gpu21",
        "Slurm",
        job(nodelist="gpu[20-21]"),
    ),
    Broken(
        "a reservation that is over",
        "https://slurm.schedmd.com/reservations.html",
        "there is no reservation workshop",
        "Slurm",
        job(reservation="workshop"),
    ),
    Broken(
        "a reservation of somebody else",
        "https://slurm.schedmd.com/reservations.html",
        "reservation course is for ada, and not for",
        "Slurm",
        job(reservation="course"),
    ),
    Broken(
        "an account that one may not charge",
        "https://github.com/ArjunaCluster/ArjunaUsers/issues/17",
        "you may not charge the account gpu",
        "Slurm",
        job(account="gpu", cluster={"associations": "venkvis_gpu||normal\n", "enforce": "associations"}),
    ),
    Broken(
        "an account that the partition does not take",
        "https://github.com/ArjunaCluster/ArjunaUsers/issues/47",
        "partition gpu does not take the account physics",
        "Slurm",
        job(account="physics", cluster={"gpu": {"accounts": "biology,chemistry"}}),
    ),
    Broken(
        "a qos that one may not use",
        "https://slurm.schedmd.com/qos.html",
        "you may not use the qos long with the account physics",
        "Slurm",
        job(
            account="physics",
            qos="long",
            cluster={"associations": "physics||normal,short\n", "enforce": "associations,limits,qos"},
        ),
    ),
)
