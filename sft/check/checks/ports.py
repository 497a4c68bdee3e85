"""The port at which the processes meet is free on machine 0, and the address is one that leads there."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Iterator

from sft.check.finding import Finding, error, note, warning
from sft.check.subject import Subject
from sft.errors import ExitCode
from sft.plan.arrangement import DEFAULT_PORT

NAME = "ports"
COST = "binds the port for an instant, and looks up machine 0's name"
NEEDS = "this machine"

LOOK_UP_SECONDS = 2.0


def look(subject: Subject) -> Iterator[Finding]:
    """Try what machine 0 will do. Platforms that start the machines choose a port there."""
    plan = subject.plan
    if plan is None or subject.on not in ("here", "background") or plan.processes == 1:
        return
    port = plan.main_process_port
    if plan.nodes > 1:
        yield from _address(subject)
        port = DEFAULT_PORT if port is None else port
    if port and plan.machine_rank == 0:
        yield from _port(subject, port)


def _port(subject: Subject, port: int) -> Iterator[Finding]:
    assert subject.plan is not None
    refusal = _refusal(port)
    where = "launch.main_process_port"
    if refusal is None:
        return
    if refusal.errno == errno.EACCES:
        yield error(
            f"port {port} may be used by root alone",
            where,
            f"set main_process_port: {DEFAULT_PORT}, or any from 1024 to 65535",
            exit_code=ExitCode.ENVIRONMENT,
        )
    elif subject.plan.nodes > 1:
        yield error(
            f"port {port} of this machine is in use{_holder(port)}, and the machines are to meet there",
            where,
            f"set main_process_port: {port + 1} on every machine, or end the run that has it",
            exit_code=ExitCode.ENVIRONMENT,
        )
    else:
        yield warning(
            f"port {port} of this machine is in use{_holder(port)}: accelerate looks for another one",
            where,
            "remove main_process_port: a free one is chosen on a single machine",
        )


def _refusal(port: int) -> OSError | None:
    """Listen at a port as torch does, which minds connections that are closing as little."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
            tried.listen(1)
        except OSError as refusal:
            return refusal
    return None


def _holder(port: int) -> str:
    """Name the process that listens at a port, where this user may see it."""
    import psutil  # type: ignore[import-untyped]  # it brings no types

    try:
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid is not None:
                return f" by {psutil.Process(one.pid).name()}, pid {one.pid}"
    except (psutil.Error, OSError):
        pass
    return ""


def _address(subject: Subject) -> Iterator[Finding]:
    """Hold machine 0's address against this machine's own."""
    assert subject.plan is not None
    address, where = subject.plan.main_process_ip, "launch.main_process_ip"
    if address is None:
        return
    found = [address] if _is_number(address) else _looked_up(address)
    if found is None:
        yield note(
            f"main_process_ip {address} was not looked up: name servers did not answer in {LOOK_UP_SECONDS:.0f} s"
        )
    elif not found:
        yield error(
            f"main_process_ip {address} is a name that this machine does not know",
            where,
            "set the number that machine 0 shows: hostname -I",
            exit_code=ExitCode.ENVIRONMENT,
        )
    elif all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found):
        yield warning(
            f"main_process_ip {address} is each machine's own: the others would look for machine 0 at themselves",
            where,
            "set the address of machine 0 that the others reach: hostname -I",
        )
    elif subject.plan.machine_rank == 0 and not set(found) & _own():
        yield warning(
            f"main_process_ip {address} is none of this machine's addresses, and this is machine 0",
            where,
            "set one that `hostname -I` shows here; on the other machines, set machine_rank",
        )


def _is_number(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _own() -> set[str]:
    import psutil

    return {one.address.partition("%")[0] for card in psutil.net_if_addrs().values() for one in card}


def _looked_up(name: str) -> list[str] | None:
    """Ask for a name's addresses; None where nobody answers in time, empty where nobody knows it."""
    found: list[list[str]] = []

    def ask() -> None:
        try:
            found.append(sorted({str(one[4][0]) for one in socket.getaddrinfo(name, None)}))
        except OSError:
            found.append([])

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(LOOK_UP_SECONDS)
    return found[0] if found else None
