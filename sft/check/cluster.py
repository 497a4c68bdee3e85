"""What a Slurm says of itself, as far as a job of one user is concerned. Runs scontrol, sinfo and sacctmgr."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sft.config.run import RunConfig
from sft.plan.hardware import Hardware

SECONDS = 5.0
"""How long one command may take: a controller that is down has its clients wait for minutes."""
GPUS = re.compile(r"\bgpu(?::([A-Za-z][\w.-]*|\d+g\.[\w.-]+))?:(\d+)")
"""gpu:4, gpu:a100:4(S:0-1), gpu:1g.10gb:7."""
UNITS = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
LOST = re.compile(r"down|drain|fail|error|maint|unk|future|perfctrs", re.IGNORECASE)
"""States of nodes on which nothing starts for now; those that are powered down are woken (`idle~`)."""


class SilentError(Exception):
    """A command is not there, or does not answer; the reason is its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a partition: its GPUs by type ("" where none is said), cores, MiB and features."""

    name: str
    gpus: Mapping[str, int]
    cores: int
    memory_mib: int
    features: frozenset[str]
    is_up: bool

    def has(self, gpus: int, kind: str | None) -> bool:
        """Whether it has so many GPUs, of a type where one is named."""
        if kind is None:
            return sum(self.gpus.values()) >= gpus
        return self.gpus.get(kind, 0) >= gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition, as `scontrol show partition` has it: Key=Value."""

    name: str
    fields: Mapping[str, str] = field(default_factory=dict)

    def allowed(self, key: str) -> list[str] | None:
        """Return who is on a list such as AllowAccounts; None where everybody is."""
        listed = self.fields.get(key, "ALL")
        return None if listed in ("ALL", "(null)", "N/A", "") else listed.split(",")

    def number(self, key: str) -> int | None:
        """Return a bound; None where there is none."""
        value = self.fields.get(key, "")
        return int(value) if value.isdigit() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """What a user may charge: an account, perhaps in one partition, with these qualities of service."""

    account: str
    partition: str
    qos: tuple[str, ...]


def ask(command: list[str]) -> str:
    """Run one command.

    Raises:
        SilentError: it is not there, refuses, or takes too long.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise SilentError(f"there is no {command[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise SilentError(f"{command[0]} does not answer within {SECONDS:.0f} s") from None
    except OSError as problem:
        raise SilentError(f"{command[0]} cannot be run: {problem.strerror}") from None
    if done.returncode:
        said = next((line.strip() for line in done.stderr.splitlines() if line.strip()), "no reason given")
        raise SilentError(f"{command[0]} refuses: {said}")
    return done.stdout


def partitions() -> dict[str, Partition]:
    """List the partitions.

    Raises:
        SilentError: Slurm does not say.
    """
    found = {}
    for line in ask(["scontrol", "show", "partition", "--oneliner"]).splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if name := fields.get("PartitionName"):
            found[name] = Partition(name=name, fields=fields)
    if not found:
        raise SilentError("scontrol shows no partition")
    return found


def nodes(partition: str) -> list[Node]:
    """List the nodes of a partition.

    Raises:
        SilentError: Slurm does not say.
    """
    found = []
    for line in ask(["sinfo", "-h", "-N", "-p", partition, "-o", "%N|%G|%c|%m|%f|%T"]).splitlines():
        parts = line.split("|")
        if len(parts) != 6:
            continue
        name, gres, cores, memory, features, state = parts
        gpus: dict[str, int] = {}
        for kind, count in GPUS.findall(gres):
            gpus[kind] = gpus.get(kind, 0) + int(count)
        found.append(
            Node(
                name=name,
                gpus=gpus,
                cores=int(cores.rstrip("+") or 0),
                memory_mib=int(memory.rstrip("+") or 0),
                features=frozenset(features.replace("(null)", "").split(",")) - {""},
                is_up=not LOST.search(state.replace("powered_down", "")) and not state.endswith("*"),
            )
        )
    return found


def hostnames(listed: str) -> list[str]:
    """Write out `node[1-3,7]`.

    Raises:
        SilentError: it is no list of nodes.
    """
    return ask(["scontrol", "show", "hostnames", listed]).split()


def reservations() -> dict[str, dict[str, str]]:
    """List the reservations, each with its fields.

    Raises:
        SilentError: Slurm does not say.
    """
    found = {}
    for line in ask(["scontrol", "show", "reservation", "--oneliner"]).splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if name := fields.get("ReservationName"):
            found[name] = fields
    return found


def enforced() -> frozenset[str]:
    """Return what AccountingStorageEnforce holds: associations, limits, qos, ...; nothing where Slurm does not say."""
    try:
        text = ask(["scontrol", "show", "config"])
    except SilentError:
        return frozenset()
    found = re.search(r"^AccountingStorageEnforce\s*=\s*(\S+)", text, re.MULTILINE)
    return frozenset(found[1].lower().split(",")) - {"none"} if found else frozenset()


def associations(user: str) -> list[Association]:
    """List what a user may charge; nothing where the cluster keeps no accounts."""
    words = ["sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=account,partition,qos"]
    try:
        lines = ask(words).splitlines()
    except SilentError:
        return []
    return list(_associations(lines))


def _associations(lines: list[str]) -> Iterator[Association]:
    for line in lines:
        account, _, rest = line.partition("|")
        partition, _, qos = rest.partition("|")
        if account:
            yield Association(
                account=account, partition=partition, qos=tuple(name for name in qos.split(",") if name)
            )


def mebibytes(text: str) -> float | None:
    """Read `--mem`: 480G, 64000 (MiB); None for what is no size."""
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text.strip(), re.IGNORECASE)
    return int(found[1]) * UNITS[found[2].upper() or "M"] if found else None


def gpus_of(gres: str) -> tuple[int, str | None] | None:
    """Read `--gres`: how many GPUs of which type; None where it names none."""
    found = re.search(r"\bgpu(?::([A-Za-z][\w.-]*|\d+g\.[\w.-]+))?(?::(\d+))?", gres)
    return (int(found[2] or 1), found[1]) if found else None


def host_bytes_of(hardware: Hardware, config: RunConfig) -> int | None:
    """Return what a machine's processes may take of its memory: what the job asks for, or all of it; None if nobody knows."""
    asked = mebibytes(config.launch.slurm.mem) if config.launch.slurm.mem else None
    return int(asked * 2**20) if asked else hardware.memory_bytes or None
