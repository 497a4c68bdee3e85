"""What is said of the network between the nodes of a run."""

from __future__ import annotations

import os
from pathlib import Path

from sft.training.network import Network
from sft.training.transport import Transport, lines, own_transport, read_transport


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


# In the form that NCCL's user guide and its issues show; no NCCL was at hand to write one.
OVER_IB = """\
n1:20:289 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB ib0:192.168.11.1<0>
n1:20:289 [0] NCCL INFO Using network IB
n1:20:310 [0] NCCL INFO Channel 00/0 : 1[0] -> 0[0] [receive] via NET/IB/0/GDRDMA
"""
OVER_TCP = """\
n2:22:295 [0] NCCL INFO NET/IB : No device found.
n2:22:295 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.2<0>
n2:22:295 [0] NCCL INFO Using network Socket
n2:22:310 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/Socket/0
"""


def test_what_nccl_goes_over_is_read_of_its_own_log(tmp_path: Path) -> None:
    (tmp_path / f"nccl-n1-{os.getpid()}.log").write_text(OVER_IB)
    (tmp_path / "nccl-n1-1.log").write_text(OVER_TCP)
    found = own_transport(str(tmp_path / "nccl-%h-%p.log"))
    assert (found.network, found.is_direct) == ("IB", True)
    assert (read_transport(OVER_TCP).network, read_transport(OVER_TCP).is_direct) == ("Socket", False)
    assert own_transport(str(tmp_path / "none-%p.log")).network is None


def test_nodes_that_do_not_go_the_fast_way_are_named() -> None:
    ib = Transport("IB", True, ("mlx5_0",))
    assert lines({"n1": ib, "n2": ib}) == ["NCCL goes over IB with GPU Direct RDMA"]
    assert lines({"n1": Transport(None)}) == []
    assert lines({"n1": ib, "n2": Transport("Socket", False, ("mlx5_0", "mlx5_1"))}) == [
        "slow: NCCL does not go the same way everywhere: IB with GPU Direct RDMA on n1; Socket on n2",
        "slow: NCCL goes over TCP on n2, which has InfiniBand (mlx5_0, mlx5_1): look at NCCL_IB_DISABLE and NCCL_IB_HCA,"
        " and whether a container brings libibverbs",
    ]
