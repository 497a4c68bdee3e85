"""What is said of the network between the nodes of a run."""

from __future__ import annotations

from sft.training.network import Network


def test_what_is_slow_is_named() -> None:
    network = Network(
        "nccl", 20e9, {"n1": 200e9, "n2": 210e9, "n3": 50e9}, {"n2": 24e9, "n3": 23e9, "n4": 3e9}
    )
    assert network.lines() == [
        "network (nccl): all-reduce over all ranks 20.00 GB/s, inside a node 200.00 GB/s, between two nodes 23.00 GB/s",
        "slow: inside node n3 has 50.00 GB/s, the others 200.00 GB/s: every step waits for it; look at the node, or"
        " exclude it: launch.slurm.exclude: n3",
        "slow: the link to node n4 has 3.00 GB/s, the others 23.00 GB/s: every step waits for it; look at the node, or"
        " exclude it: launch.slurm.exclude: n4",
    ]


def test_two_nodes_with_one_rank_each_have_nothing_to_compare() -> None:
    network = Network("gloo", 1e9, {}, {"node2": 0.5e9})
    assert network.lines() == [
        "network (gloo): all-reduce over all ranks 1.00 GB/s, between two nodes 0.50 GB/s"
    ]
