"""Stand-ins for scontrol, sinfo and sacctmgr: programs that print what a real Slurm printed (tests/slurm/test_check.py).

Only names and numbers were changed: two partitions, of eight nodes with four A100 each and of two nodes without GPUs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PARTITION = (
    "PartitionName={name} AllowGroups={groups} AllowAccounts={accounts} AllowQos={qos} AllocNodes=ALL Default={default}"
    " QoS=N/A DefaultTime=00:10:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes={max_nodes}"
    " MaxTime={max_time} MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes={nodes} PriorityJobFactor=1 PriorityTier=1"
    " RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State={state} TotalCPUs=1024"
    " TotalNodes=8 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED"
)
GPU = {
    "name": "gpu",
    "groups": "ALL",
    "accounts": "ALL",
    "qos": "ALL",
    "default": "NO",
    "max_nodes": "4",
    "max_time": "1-00:00:00",
    "nodes": "gpu[1-8]",
    "state": "UP",
}
CPU = GPU | {"name": "cpu", "default": "YES", "max_nodes": "UNLIMITED", "nodes": "cpu[1-2]"}
NODES = {
    "gpu": [
        f"gpu{number}|gpu:a100:4(S:0-1)|128|512000|a100,nvme|{'idle' if number < 8 else 'down*'}"
        for number in range(1, 9)
    ],
    "cpu": ["cpu1|(null)|64|256000|(null)|idle", "cpu2|(null)|64|256000|(null)|mixed"],
}
RESERVATION = (
    "ReservationName=course StartTime=2026-11-01T08:00:00 EndTime=2026-12-01T08:00:00 Duration=30-00:00:00 Nodes=gpu1"
    " NodeCnt=1 CoreCnt=128 Features=(null) PartitionName=gpu Flags=SPEC_NODES TRES=cpu=128 Users=ada Groups=(null)"
    " Accounts=(null) Licenses=(null) State=ACTIVE BurstBuffer=(null) Watts=n/a MaxStartDelay=(null)"
)
SCRIPT = """\
#!/bin/sh
case "{program} $*" in
{cases}
*) echo "{program}: error: not asked for in these tests: $*" >&2; exit 1 ;;
esac
"""


def install(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    gpu: dict[str, str] | None = None,
    associations: str = "",
    enforce: str = "none",
    reservations: str = RESERVATION,
) -> None:
    """Put the programs on the PATH.

    Args:
        gpu: what of the partition with GPUs is otherwise.
        associations: what sacctmgr says of the user; empty where the cluster keeps no accounts.
        enforce: AccountingStorageEnforce.
    """
    programs = directory / "slurm"
    programs.mkdir()
    partitions = "\n".join(PARTITION.format(**one) for one in (GPU | (gpu or {}), CPU))
    said = {
        "scontrol show partition --oneliner": partitions,
        "scontrol show reservation --oneliner": reservations,
        "scontrol show config": f"AccountingStorageEnforce = {enforce}\nAccountingStorageHost   = localhost",
        "scontrol show hostnames gpu[1-2]": "gpu1\ngpu2",
        "scontrol show hostnames gpu[20-21]": "gpu20\ngpu21",
        "scontrol show hostnames gpu[1-7]": "\n".join(f"gpu{number}" for number in range(1, 8)),
        **{f"sinfo -h -N -p {name} -o %N|%G|%c|%m|%f|%T": "\n".join(lines) for name, lines in NODES.items()},
    }
    cases = {name: [] for name in ("scontrol", "sinfo", "sacctmgr")}
    for number, (words, text) in enumerate(said.items()):
        answer = programs / f"answer-{number}"
        answer.write_text(f"{text}\n")
        cases[words.split()[0]].append(f"'{words}') cat '{answer}' ;;")
    if associations:
        answer = programs / "associations"
        answer.write_text(associations)
        cases["sacctmgr"].append(f"*) cat '{answer}' ;;")
    for program, lines in cases.items():
        path = programs / program
        path.write_text(SCRIPT.format(program=program, cases="\n".join(lines)))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
