"""A group's site file, filled from what its Slurm says of itself: partitions, nodes, GPUs, accounts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from sft.errors import ExitCode, UserError

SECONDS = 60.0
Ask = Callable[[list[str]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition: its nodes' GPUs, cores and memory are those of the smallest."""

    name: str
    is_default: bool
    time_limit: str
    nodes: int
    gpus: int
    gres: str
    cores: int
    memory_mib: int


def ask(command: list[str]) -> str:
    """Run one of Slurm's commands; empty where it has nothing to say."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    except FileNotFoundError:
        raise UserError(
            f"there is no {command[0]} on this machine",
            "PATH",
            "run this on a login node of the cluster",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    except subprocess.SubprocessError:
        return ""


def partitions(ask: Ask = ask) -> list[Partition]:
    """List the partitions that this user may see, the default first.

    Raises:
        UserError: there is no Slurm here, or it does not answer.
    """
    found: dict[str, Partition] = {}
    for line in ask(["sinfo", "-h", "-o", "%P|%l|%D|%G|%c|%m"]).splitlines():
        name, limit, nodes, gres, cores, memory = line.split("|")
        one = Partition(
            name=name.rstrip("*"),
            is_default=name.endswith("*"),
            time_limit=limit,
            nodes=int(nodes),
            gpus=_gpus(gres),
            gres=gres,
            cores=int(cores.rstrip("+")),
            memory_mib=int(memory.rstrip("+")),
        )
        found[one.name] = _smaller(found[one.name], one) if one.name in found else one
    if not found:
        raise UserError(
            "Slurm does not say which partitions there are",
            "sinfo",
            "try again; `scontrol ping` shows whether the controller is up",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return sorted(found.values(), key=lambda one: (not one.is_default, one.name))


def accounts(user: str, ask: Ask = ask) -> list[str]:
    """List the accounts that a user may charge; none where the cluster keeps no accounts."""
    words = ["sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=account"]
    return list(dict.fromkeys(line for line in ask(words).split() if line))


def interfaces(ask: Ask = ask) -> str | None:
    """Name the InfiniBand interface that is up here, where there is one: compute nodes are mostly alike."""
    for line in ask(["ip", "-o", "-4", "addr", "show", "up"]).splitlines():
        name = line.split()[1]
        if name.startswith(("ib", "hsn")):
            return name
    return None


def site_text(
    found: list[Partition], of_user: list[str], interface: str | None, *, name: str | None = None
) -> str:
    """Write a site file: the defaults of `launch:` for a group.

    Args:
        name: which of the partitions; otherwise one with GPUs, the default one before the others.

    Raises:
        UserError: there is no such partition.
    """
    if name is not None and name not in {one.name for one in found}:
        there = ", ".join(one.name for one in found)
        raise UserError(f"there is no partition {name}", "--partition", f"one of: {there}")
    by_gpus = sorted(found, key=lambda one: (one.gpus == 0, not one.is_default))
    chosen = next((one for one in found if one.name == name), by_gpus[0])
    lines = [
        "# A group's defaults for `launch:`; a run file wins over them, and flags over both.",
        "# Written by: sft configure --site. Use it: export SFT_SITE=/path/to/this/file",
        "# Partitions that Slurm shows:",
        *(
            f"#   {one.name}: {one.nodes} node{'s' if one.nodes > 1 else ''} with {one.gpus} GPUs ({one.gres}),"
            f" {one.cores} cores, {one.memory_mib / 1024:.0f} GiB; time limit {one.time_limit}"
            for one in found
        ),
        "launch:",
    ]
    lines += [f"  gpus_per_node: {chosen.gpus}"] if chosen.gpus else ["  device: cpu"]
    if interface:
        lines.append(
            f"  network_interface: {interface}  # this machine's; look on a compute node: ip -4 addr"
        )
    lines.append('  # setup: ["module load cuda", "source /path/to/conda.sh", "conda activate peft"]')
    if chosen.time_limit not in ("infinite", "UNLIMITED"):
        lines.append(f'  # time_limit: "{chosen.time_limit}"  # the longest there')
    lines += ["  slurm:", f"    partition: {chosen.name}"]
    if of_user:
        more = f"  # or {', '.join(of_user[1:])}" if of_user[1:] else ""
        lines.append(f"    account: {of_user[0]}{more}")
    lines.append(f"    cpus_per_task: {chosen.cores}")
    lines.append("    mem: '0'  # all of a node's")
    return "\n".join(lines) + "\n"


def _gpus(gres: str) -> int:
    """Count the GPUs of `gpu:a100:4(S:0-1),nvme:1`."""
    total = 0
    for item in gres.split(","):
        name, *rest = item.partition("(")[0].split(":")
        if name == "gpu" and rest and rest[-1].isdecimal():
            total += int(rest[-1])
    return total


def _smaller(one: Partition, other: Partition) -> Partition:
    """Put two kinds of nodes of one partition together: what fits on both."""
    few = min(one, other, key=lambda kind: (kind.gpus, kind.memory_mib))
    return Partition(
        name=one.name,
        is_default=one.is_default,
        time_limit=one.time_limit,
        nodes=one.nodes + other.nodes,
        gpus=few.gpus,
        gres=few.gres,
        cores=min(one.cores, other.cores),
        memory_mib=few.memory_mib,
    )
