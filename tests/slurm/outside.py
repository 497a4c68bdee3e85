"""Count what a host wanted from outside the cluster: names that it looked up, and sends for which there was no route."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.slurm.settings import SUBNET

OWN_ADDRESSES = f".{'.'.join(reversed(SUBNET.split('.')))}.in-addr.arpa"


class Attempts:
    """What hosts tried to reach since they booted, or since the last `forget()`."""

    def __init__(self, names_log: Path) -> None:
        self.names_log = names_log
        self.names_before = 0
        self.before: dict[psutil.Process, int] = {}

    def of(self, host: str, address: str, init: psutil.Process | None) -> list[str]:
        """List a host's attempts in words; `init` is its first process, or None if the host is off."""
        names = [name for asker, name in self._names()[self.names_before :] if asker == address]
        found = [f"{host} looked up {name}" for name in dict.fromkeys(names)]
        count = _sends_without_route(init.pid) - self.before.get(init, 0) if init is not None else 0
        return [*found, f"{host} found no route {count} times"] if count else found

    def forget(self, inits: list[psutil.Process]) -> None:
        """Count from now on. A host that boots has a first process, and counters, of its own."""
        self.names_before = len(self._names())
        self.before = {init: _sends_without_route(init.pid) for init in inits}

    def _names(self) -> list[tuple[str, str]]:
        lines = self.names_log.read_text().splitlines() if self.names_log.exists() else []
        asked = [(asker, name) for asker, _, name in (line.partition(" ") for line in lines)]
        # torch asks what the address of a node is called, which is no wish to leave the cluster.
        return [(asker, name) for asker, name in asked if not name.endswith(OWN_ADDRESSES)]


def _sends_without_route(pid: int) -> int:
    """Return how often the kernel found no route in the network of a process, for connections and packets alike.

    Source:
        net/ipv4/tcp_ipv4.c, udp.c, datagram.c and net/ipv6/ip6_output.c count it before ENETUNREACH is returned.
    """
    names, values = [
        line.split()
        for line in Path(f"/proc/{pid}/net/snmp").read_text().splitlines()
        if line.startswith("Ip:")
    ]
    over_ipv4 = int(dict(zip(names, values, strict=True))["OutNoRoutes"])
    lines = Path(f"/proc/{pid}/net/snmp6").read_text().splitlines()
    return over_ipv4 + int(dict(line.split() for line in lines)["Ip6OutNoRoutes"])
