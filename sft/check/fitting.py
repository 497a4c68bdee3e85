"""Which nodes of a partition a batch job fits on, and what keeps it from the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sft.check.cluster import Node, gpus_of, hostnames, mebibytes
from sft.check.finding import Finding, error, warning
from sft.config.kit import LaunchConfig
from sft.errors import ExitCode
from sft.plan.plan import Plan

PLAIN_FEATURES = re.compile(r"[\w.+-]+(&[\w.+-]+)*")
"""A constraint that is names joined by &; what is more is left to Slurm."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """One thing that is asked of every node.

    Attributes:
        of_one: what a node does that has it ("has 4 GPUs"), and `of_many` the same of several.
        key: the key of the run file that asks for it.
    """

    of_one: str
    of_many: str
    key: str
    fix: str
    is_met: Callable[[Node], bool]


def fitting(launch: LaunchConfig, plan: Plan, name: str, there: Sequence[Node]) -> Iterator[Finding]:
    """Leave out the nodes that lack something, one thing after the other, until there are too few.

    Args:
        name: of the partition whose nodes these are.

    Raises:
        SilentError: Slurm does not write a list of nodes out.
    """
    if len(there) < plan.nodes:
        are = "is" if plan.nodes == 1 else "are"
        yield _refused(
            f"partition {name} has {len(there)} nodes, and {plan.nodes} {are} asked for",
            "launch.nodes",
            "choose another partition"
            if not there
            else f"set launch.nodes: {len(there)}, or choose another partition",
        )
        return
    if launch.slurm.nodelist:
        absent = sorted(set(hostnames(launch.slurm.nodelist)) - {node.name for node in there})
        if absent:
            fix = f"`sinfo -N -p {name}` lists its nodes"
            yield _refused(f"partition {name} has no node {', '.join(absent)}", "launch.slurm.nodelist", fix)
            return
    left = list(there)
    for wish in _wishes(launch, plan, there):
        left = [node for node in left if wish.is_met(node)]
        if len(left) < plan.nodes:
            who = f"only {len(left)} nodes" if len(left) > 1 else "only 1 node" if left else "no node"
            asked = f", and {plan.nodes} are asked for" if left else ""
            does = wish.of_many if len(left) > 1 else wish.of_one
            yield _refused(f"{who} of partition {name} {does}{asked}", wish.key, wish.fix)
            return
    up = sum(node.is_up for node in left)
    if up < plan.nodes:
        yield warning(
            f"{up} of the {len(left)} nodes of partition {name} that fit are up, and {plan.nodes}"
            f" {'is' if plan.nodes == 1 else 'are'} asked for: the job waits for the others",
            "launch.slurm.partition",
            f"`sinfo -R -p {name}` says why they are not",
        )


def _wishes(launch: LaunchConfig, plan: Plan, there: Sequence[Node]) -> Iterator[_Wish]:
    slurm = launch.slurm
    if slurm.exclude:
        excluded = set(hostnames(slurm.exclude))
        yield _Wish(
            "is not excluded",
            "are not excluded",
            "launch.slurm.exclude",
            "exclude fewer",
            lambda node: node.name not in excluded,
        )
    asked: tuple[int, str | None] | None = None
    if plan.device == "gpu":
        asked = gpus_of(slurm.gres) if slurm.gres else (plan.processes_per_node, None)
    if asked is not None:
        yield _of_gpus(*asked, "launch.slurm.gres" if slurm.gres else "launch.gpus_per_node", there)
    if slurm.cpus_per_task is not None:
        cores, most = slurm.cpus_per_task, max(node.cores for node in there)
        key = "launch.slurm.cpus_per_task"
        yield _having(f"{cores} cores", key, f"at most {most}", lambda node: node.cores >= cores)
    memory = mebibytes(slurm.mem) if slurm.mem else None
    if memory is not None:
        most = max(node.memory_mib for node in there)
        fix = f"at most {most}M; 0 is all of a node's"
        yield _having(
            f"{slurm.mem} of memory", "launch.slurm.mem", fix, lambda node: node.memory_mib >= memory
        )
    if slurm.constraint and PLAIN_FEATURES.fullmatch(slurm.constraint):
        features = set(slurm.constraint.split("&"))
        known = sorted({feature for node in there for feature in node.features})
        fix = f"features there: {', '.join(known)}" if known else "remove it: no node there has any feature"
        what = f"the feature {slurm.constraint}"
        yield _having(what, "launch.slurm.constraint", fix, lambda node: features <= node.features)


def _of_gpus(count: int, kind: str | None, key: str, there: Sequence[Node]) -> _Wish:
    most = max(sum(node.gpus.values()) if kind is None else node.gpus.get(kind, 0) for node in there)
    kinds = sorted({known for node in there for known in node.gpus if known})
    fix = "choose another partition"
    if most:
        fix = f"at most {most} a node; launch.nodes for more"
    elif kind and kinds:
        fix = f"types there: {', '.join(kinds)}"
    what = f"{count} GPU{'s' * (count > 1)}{f' of type {kind}' if kind else ''}"
    return _having(what, key, fix, lambda node: node.has(count, kind))


def _having(what: str, key: str, fix: str, is_met: Callable[[Node], bool]) -> _Wish:
    return _Wish(f"has {what}", f"have {what}", key, fix, is_met)


def _refused(what: str, where: str, fix: str) -> Finding:
    return error(what, where, fix, exit_code=ExitCode.ENVIRONMENT)
