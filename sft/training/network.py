"""How fast the ranks of several nodes speak to each other, measured before the model is loaded: the slow one is named."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from sft.plan.plan import Plan
from sft.training import transport
from sft.training.reporting import Reporter
from sft.training.transport import Transport

BYTES = {"cuda": 256 << 20, "cpu": 8 << 20}
"""Of one tensor: large enough that the time is the transfer's, small enough to take no time to speak of."""
TIMES = 3
SLOW = 0.5
"""Below this share of the usual one, a node or link is named."""


@dataclass(frozen=True, slots=True)
class Network:
    """What was measured, in bytes a second of the tensor that was reduced or sent.

    Attributes:
        inside: an all-reduce over the ranks of one node, by host; empty with one rank a node.
        links: a tensor from the first node's first rank to the first rank of another node and back, by host.
        across: an all-reduce over all ranks.
        transports: what NCCL goes over, by host; empty with another backend.
    """

    backend: str
    across: float
    inside: dict[str, float] = field(default_factory=dict)
    links: dict[str, float] = field(default_factory=dict)
    transports: dict[str, Transport] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Say it to people, and name what is slow."""
        told = [f"network ({self.backend}): all-reduce over all ranks {_rate(self.across)}"]
        if self.inside:
            told[0] += f", inside a node {_rate(statistics.median(self.inside.values()))}"
        if self.links:
            told[0] += f", between two nodes {_rate(statistics.median(self.links.values()))}"
        told += _slow(self.inside, "inside node {}")
        told += _slow(self.links, "the link to node {}")
        return told + transport.lines(self.transports)

    def fields(self) -> dict[str, Any]:
        """Return it as an event's fields."""
        networks = {host: found.network for host, found in self.transports.items()}
        measured = {
            "backend": self.backend,
            "across": self.across,
            "inside": self.inside,
            "links": self.links,
        }
        return measured | ({"transports": networks} if networks else {})


def tell(plan: Plan | None, device: torch.device, reporter: Reporter) -> None:
    """Measure the network of a run on several nodes, and say it. A collective: every rank must call it."""
    if plan is None or plan.nodes == 1:
        return
    network = measure(plan, device)
    reporter.write("network", **network.fields())
    for line in network.lines():
        reporter.note(line)


def measure(plan: Plan, device: torch.device) -> Network:
    """Time all-reduces and transfers between the nodes. A collective: every rank must call it.

    Args:
        plan: of a run on several nodes, whose ranks are numbered node by node.
    """
    rank, each = dist.get_rank(), plan.processes_per_node
    tensor = torch.ones(BYTES[device.type] // 4, dtype=torch.float32, device=device)
    across = _bytes_a_second(lambda: dist.all_reduce(tensor), tensor, device)
    inside = 0.0
    if each > 1:
        # Every rank has to take part in the making of every group.
        groups = [dist.new_group(list(range(node * each, (node + 1) * each))) for node in range(plan.nodes)]
        mine = groups[rank // each]
        inside = _bytes_a_second(lambda: dist.all_reduce(tensor, group=mine), tensor, device)
        for group in groups:
            if dist.get_rank(group) >= 0:
                dist.destroy_process_group(group)
    links: dict[int, float] = {}
    for node in range(1, plan.nodes):
        dist.barrier()
        if rank in (0, node * each):
            peer = node * each if rank == 0 else 0
            # There and back again: twice the bytes.
            links[node] = 2 * _bytes_a_second(
                lambda peer=peer: _there_and_back(tensor, rank, peer), tensor, device
            )  # type: ignore[misc]
    backend = dist.get_backend()
    own = transport.own_transport() if backend == "nccl" else None
    told: list[Any] = [None] * plan.processes
    dist.all_gather_object(told, (socket.gethostname(), inside, links, own))
    hosts = [told[node * each][0] for node in range(plan.nodes)]
    return Network(
        backend,
        across,
        {host: told[node * each][1] for node, host in enumerate(hosts)} if each > 1 else {},
        {hosts[node]: rate for node, rate in told[0][2].items()},
        {} if own is None else {host: told[node * each][3] for node, host in enumerate(hosts)},
    )


def _there_and_back(tensor: torch.Tensor, rank: int, peer: int) -> None:
    if rank == 0:
        dist.send(tensor, peer)
        dist.recv(tensor, peer)
    else:
        dist.recv(tensor, peer)
        dist.send(tensor, peer)


def _bytes_a_second(act: Callable[[], object], tensor: torch.Tensor, device: torch.device) -> float:
    """Return the bytes of the tensor, divided by the shortest of some times: the first makes the connections."""

    def once() -> float:
        began = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    once()
    return tensor.numel() * tensor.element_size() / min(once() for _ in range(TIMES))


def _rate(bytes_a_second: float) -> str:
    return f"{bytes_a_second / 1e9:.2f} GB/s"


def _slow(rates: dict[str, float], what: str) -> list[str]:
    if len(rates) < 2:
        return []
    usual = statistics.median(rates.values())
    return [
        f"slow: {what.format(host)} has {_rate(rate)}, the others {_rate(usual)}: every step waits for it; look at the"
        f" node, or exclude it: launch.slurm.exclude: {host}"
        for host, rate in sorted(rates.items())
        if rate < SLOW * usual
    ]
