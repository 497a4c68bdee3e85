"""What the batch job asks for can be had on this cluster: partition, time, nodes, GPUs, account, reservation."""

from __future__ import annotations

import getpass
import grp
import os
import re
from collections.abc import Iterator

from sft.check.cluster import (
    Partition,
    SilentError,
    associations,
    enforced,
    nodes,
    partitions,
    reservations,
)
from sft.check.finding import Finding, error, note, warning
from sft.check.fitting import fitting
from sft.check.subject import Subject
from sft.errors import ExitCode
from sft.launch.deadline import seconds_of
from sft.plan.plan import Plan

NAME = "Slurm"
COST = "scontrol, sinfo and sacctmgr, each at most 5 s"
NEEDS = "the scheduler"

FULL = ("DRAIN", "INACTIVE")
"""States of a partition that takes no jobs."""


def look(subject: Subject) -> Iterator[Finding]:
    """Hold `launch.slurm` against what Slurm says of itself. One that says nothing is no reason to refuse."""
    if subject.plan is None:
        return
    try:
        yield from _partitions(subject, subject.plan, partitions())
        yield from _reservation(subject)
    except SilentError as silence:
        yield note(f"Slurm was not asked what it has: {silence}")
    yield from _account(subject)


def _partitions(subject: Subject, plan: Plan, there: dict[str, Partition]) -> Iterator[Finding]:
    """Look at each partition that is named; Slurm takes any one of several in which the job can run."""
    where = "launch.slurm.partition"
    wanted = subject.config.launch.slurm.partition
    names = [name.strip() for name in wanted.split(",")] if wanted else []
    if not names:
        names = [name for name, one in there.items() if one.fields.get("Default") == "YES"]
        if not names:
            yield _refused(
                "the run names no partition, and this cluster has no default one",
                where,
                f"set launch.slurm.partition: one of {', '.join(sorted(there))}",
            )
    unknown = [name for name in names if name not in there]
    for name in unknown:
        yield _refused(
            f"there is no partition {name} on this cluster", where, f"one of: {', '.join(sorted(there))}"
        )
    found = [(name, list(_partition(subject, plan, there[name]))) for name in names if name not in unknown]
    if found and all(any(finding.gravity == "error" for finding in told) for _, told in found):
        yield from found[0][1]
    else:
        for _, told in found:
            yield from (finding for finding in told if finding.gravity != "error" and len(found) == 1)


def _partition(subject: Subject, plan: Plan, partition: Partition) -> Iterator[Finding]:
    name, fields = partition.name, partition.fields
    where = "launch.slurm.partition"
    if fields.get("State") in FULL:
        yield _refused(
            f"partition {name} takes no jobs: its state is {fields['State']}", where, "choose another one"
        )
    elif fields.get("State") == "DOWN":
        yield warning(
            f"partition {name} is down: the job waits until it is up again", where, "choose another one"
        )
    yield from _admitted(subject, partition)
    yield from _time(subject, partition)
    least, most = partition.number("MinNodes"), partition.number("MaxNodes")
    if most is not None and plan.nodes > most:
        yield _refused(
            f"{plan.nodes} nodes are asked for, and a job in partition {name} may have {most}",
            "launch.nodes",
            f"set launch.nodes: {most}, or choose another partition",
        )
    elif least is not None and plan.nodes < least:
        yield _refused(
            f"a job in partition {name} has at least {least} nodes, and {plan.nodes} is asked for",
            "launch.nodes",
            f"set launch.nodes: {least}, or choose another partition",
        )
    else:
        yield from fitting(subject.config.launch, plan, name, nodes(name))


def _admitted(subject: Subject, partition: Partition) -> Iterator[Finding]:
    """Tell a partition that is not for this user, account or quality of service."""
    slurm, name = subject.config.launch.slurm, partition.name
    where = "launch.slurm.partition"
    groups = partition.allowed("AllowGroups")
    if groups is not None and os.getuid() != 0 and not set(groups) & _own_groups():
        yield _refused(
            f"partition {name} is for the groups {', '.join(groups)}, and you are in none of them",
            where,
            "choose another partition, or ask to be let in",
        )
    if partition.fields.get("RootOnly") == "YES" and os.getuid() != 0:
        yield _refused(f"only root may use partition {name}", where, "choose another partition")
    if partition.fields.get("ReqResv") == "YES" and slurm.reservation is None:
        yield _refused(
            f"partition {name} takes jobs with a reservation only", where, "set launch.slurm.reservation"
        )
    for key, value, what in (("Accounts", slurm.account, "account"), ("Qos", slurm.qos, "qos")):
        if value is None:
            continue
        allowed, denied = partition.allowed(f"Allow{key}"), partition.allowed(f"Deny{key}")
        if (allowed is not None and value not in allowed) or (denied is not None and value in denied):
            fix = f"set launch.slurm.{what}: {' or '.join(allowed)}" if allowed else f"choose another {what}"
            yield _refused(
                f"partition {name} does not take the {what} {value}",
                f"launch.slurm.{what}",
                fix,
            )


def _own_groups() -> set[str]:
    names = set()
    for number in {os.getgid(), *os.getgroups()}:
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return names


def _time(subject: Subject, partition: Partition) -> Iterator[Finding]:
    longest, asked = partition.fields.get("MaxTime", "UNLIMITED"), subject.config.launch.time_limit
    most = seconds_of(longest) if re.fullmatch(r"[\d:-]+", longest) else None
    if asked is None:
        given = partition.fields.get("DefaultTime", "NONE")
        given = longest if given == "NONE" else given
        if given != "UNLIMITED":
            yield note(f"no launch.time_limit is set: partition {partition.name} gives the job {given}")
        return
    seconds = seconds_of(asked)
    if most is not None and (seconds is None or seconds > most):
        yield _refused(
            f"time_limit {asked} is longer than partition {partition.name} lets a job run, {longest}: the job would wait"
            " for ever",
            "launch.time_limit",
            f'set launch.time_limit: "{longest}"; the run continues from its last checkpoint in the next job',
        )


def _reservation(subject: Subject) -> Iterator[Finding]:
    name = subject.config.launch.slurm.reservation
    if name is None:
        return
    there = reservations()
    where = "launch.slurm.reservation"
    for one in name.split(","):
        if one not in there:
            fix = f"one of: {', '.join(sorted(there))}" if there else "remove it: this cluster has none now"
            yield _refused(f"there is no reservation {one}", where, fix)
            continue
        users, accounts = (there[one].get(key, "(null)") for key in ("Users", "Accounts"))
        if users != "(null)" and accounts == "(null)" and getpass.getuser() not in users.split(","):
            yield _refused(
                f"reservation {one} is for {users}, and not for {getpass.getuser()}", where, "remove it"
            )


def _account(subject: Subject) -> Iterator[Finding]:
    """Hold account and qos against what the user may charge. Where that is not enforced, Slurm takes any."""
    slurm = subject.config.launch.slurm
    if slurm.account is None and slurm.qos is None:
        return
    own = associations(getpass.getuser())
    if not own:
        return
    rules = enforced()
    accounts = sorted({one.account for one in own})
    if slurm.account is not None and slurm.account not in accounts:
        yield _told(
            bool(rules),
            f"you may not charge the account {slurm.account}",
            "launch.slurm.account",
            f"one of: {', '.join(accounts)}",
        )
        return
    of_account = [one for one in own if slurm.account in (None, one.account)]
    qualities = sorted({name for one in of_account for name in one.qos})
    if slurm.qos is not None and qualities and slurm.qos not in qualities:
        account = f" with the account {slurm.account}" if slurm.account else ""
        yield _told(
            "qos" in rules,
            f"you may not use the qos {slurm.qos}{account}",
            "launch.slurm.qos",
            f"one of: {', '.join(qualities)}",
        )


def _told(is_certain: bool, what: str, where: str, fix: str) -> Finding:
    return _refused(what, where, fix) if is_certain else warning(what, where, fix)


def _refused(what: str, where: str, fix: str) -> Finding:
    return error(what, where, fix, exit_code=ExitCode.ENVIRONMENT)
