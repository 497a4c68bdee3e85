"""What NCCL goes over between nodes, as it says itself in the log that the launch has it write: one file a rank."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

INFINIBAND = Path("/sys/class/infiniband")
NETWORK = re.compile(r"NCCL INFO Using network (\S+)")
DIRECT = re.compile(r"via NET/[^/\s]+/\d+\S*/GDRDMA")
OVER_TCP = "Socket"


@dataclass(frozen=True, slots=True)
class Transport:
    """What one rank's NCCL goes over.

    Attributes:
        network: NCCL's own name: IB, Socket, AWS Libfabric, ...; None where it has not said.
        is_direct: the network card reads and writes GPU memory itself (GPU Direct RDMA).
        adapters: the InfiniBand adapters of the node, used or not.
    """

    network: str | None
    is_direct: bool = False
    adapters: tuple[str, ...] = ()


def read_transport(log: str) -> Transport:
    """Find in NCCL's own words what it goes over.

    Args:
        log: NCCL's log at level INFO with the subsystems INIT and NET.
    Source:
        NCCL's user guide, Logging; transports as `via NET/IB/0/GDRDMA` or `via NET/Socket/0` once channels are made.
    """
    said = NETWORK.findall(log)
    return Transport(said[-1] if said else None, DIRECT.search(log) is not None, _adapters())


def own_transport(pattern: str | None = None) -> Transport:
    """Read this rank's log of NCCL.

    Args:
        pattern: the value of NCCL_DEBUG_FILE, in which %h is the host and %p the process.
    """
    pattern = os.environ.get("NCCL_DEBUG_FILE") if pattern is None else pattern
    if not pattern:
        return Transport(None)
    path = Path(pattern)
    names = path.name.replace("%h", "*").replace("%p", str(os.getpid()))
    directory = Path(str(path.parent).replace("%%", "%"))
    logs = [log.read_text(encoding="utf-8", errors="replace") for log in sorted(directory.glob(names))]
    return read_transport("\n".join(logs))


def lines(transports: dict[str, Transport]) -> list[str]:
    """Say to people what every node goes over, and where it is not what the node has."""
    said = {host: transport for host, transport in transports.items() if transport.network is not None}
    if not said:
        return []
    ways: dict[str, list[str]] = {}
    for host, transport in said.items():
        way = f"{transport.network}{' with GPU Direct RDMA' if transport.is_direct else ''}"
        ways.setdefault(way, []).append(host)
    if len(ways) == 1:
        told = [f"NCCL goes over {next(iter(ways))}"]
    else:
        each = "; ".join(f"{way} on {', '.join(hosts)}" for way, hosts in ways.items())
        told = [f"slow: NCCL does not go the same way everywhere: {each}"]
    for host, transport in said.items():
        if transport.network == OVER_TCP and transport.adapters:
            told.append(
                f"slow: NCCL goes over TCP on {host}, which has InfiniBand ({', '.join(transport.adapters)}): look at"
                " NCCL_IB_DISABLE and NCCL_IB_HCA, and whether a container brings libibverbs"
            )
    return told


def _adapters() -> tuple[str, ...]:
    try:
        return tuple(sorted(os.listdir(INFINIBAND)))
    except OSError:
        return ()
