"""What this machine lets a process have: open files, processes, file sizes, memory, shared memory, cores."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from sft.check.disk import bill_of
from sft.check.filesystem import gib
from sft.check.finding import Finding, error, warning
from sft.check.subject import Subject
from sft.errors import ExitCode
from sft.plan.plan import Plan

NAME = "limits"
COST = "ulimit, the cgroup and /dev/shm"
NEEDS = "this machine"

SHM = Path("/dev/shm")
INFINIBAND = Path("/sys/class/infiniband")
CGROUP = Path("/sys/fs/cgroup")
FILES_PER_RANK = 256
"""Files that one rank has open once it trains: libraries, weights, sockets, logs; some 90 were seen on two CPUs."""
FILES_PER_WORKER = 24
"""Pipes and shared tensors of one worker of a DataLoader, two batches ahead."""
THREADS_PER_PROCESS = 64
SHM_PER_GPU = 40 << 20
"""NCCL's segments of one rank: about four of 9.6 MB. Source: github.com/NVIDIA/nccl/issues/342."""
PINNED_BYTES = 64 << 20
"""What InfiniBand locks of memory at least; sites that use it set no limit."""
BATCHES_AHEAD = 2
ROW_BYTES = 8 * 4
"""A token in shared memory: four columns of int64."""


def look(subject: Subject) -> Iterator[Finding]:
    """Hold each limit against what the planned processes take."""
    if subject.plan is None:
        return
    yield from _files(subject, subject.plan)
    yield from _processes(subject, subject.plan)
    yield from _sizes(subject, subject.plan)
    yield from _addresses(subject, subject.plan)
    yield from _locked(subject.plan)
    yield from _shared(subject, subject.plan)
    yield from _memory(subject, subject.plan)
    yield from _cores(subject, subject.plan)


def _limit(kind: int) -> int | None:
    """Return the limit that counts; None for no limit."""
    soft = resource.getrlimit(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _workers(subject: Subject) -> int:
    return subject.config.training.dataloader_num_workers


def _raise_to(kind: int, letter: str, needed: int, *, better: int | None = None) -> str:
    """Say how a limit is raised.

    Args:
        better: what leaves some room, where the hard limit lets it.
    """
    hard = resource.getrlimit(kind)[1]
    if hard == resource.RLIM_INFINITY:
        return f"ulimit -{letter} {better or needed}"
    if hard >= needed:
        return f"ulimit -{letter} {min(hard, better or needed)}"
    return f"have the hard limit raised, which is {hard}: /etc/security/limits.conf, or docker run --ulimit"


def _files(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """A rank without a file left fails at whatever it opens next, hours into a run perhaps."""
    limit, workers = _limit(resource.RLIMIT_NOFILE), _workers(subject)
    needed = FILES_PER_RANK + FILES_PER_WORKER * workers
    if limit is not None and limit < needed:
        with_workers = f" with {workers} DataLoader workers" if workers else ""
        yield warning(
            f"a process may have {limit} files open, and a rank{with_workers} has up to {needed}",
            "ulimit -n",
            _raise_to(resource.RLIMIT_NOFILE, "n", needed, better=65536),
        )


def _processes(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """Threads count as processes. Root is bound by its cgroup alone."""
    ranks, workers = plan.processes_per_node, _workers(subject)
    threads = plan.threads_per_process or 1
    needed = ranks * (THREADS_PER_PROCESS + threads + 2 * workers)
    limit = _limit(resource.RLIMIT_NPROC)
    if os.getuid() != 0 and limit is not None and limit < 10 * needed:
        left = limit - _own_threads()
        if left < needed:
            yield warning(
                f"you may start {max(0, left)} more threads, and the run starts about {needed}",
                "ulimit -u",
                _raise_to(resource.RLIMIT_NPROC, "u", limit + needed),
            )
    for group in _groups("pids"):
        most, now = _number(group / "pids.max"), _number(group / "pids.current")
        if most is not None and most - (now or 0) < needed:
            yield warning(
                f"this container may start {max(0, most - (now or 0))} more threads, and the run starts about {needed}",
                str(group / "pids.max"),
                "start it with more: docker run --pids-limit -1, or TasksMax= of its service",
            )
            break


def _own_threads() -> int:
    """Count this user's threads."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                total += len(list((process / "task").iterdir()))
        except OSError:  # it ended
            continue
    return total


def _groups(controller: str) -> list[Path]:
    """List this process's cgroup and those above it, as version 2 or 1 has them; in a container, as far as it sees them."""
    found = [CGROUP, CGROUP / controller]
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            place = CGROUP / (controllers and controller) / own.lstrip("/")
            found += [place, *(above for above in place.parents if above.is_relative_to(CGROUP))]
    return list(dict.fromkeys(found))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def _sizes(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """A file that reaches the limit is cut short: the save fails."""
    limit = _limit(resource.RLIMIT_FSIZE)
    if limit is None or subject.tensors is None:
        return
    bill = bill_of(subject.config, plan, subject.tensors)
    # An adapter is one file; a model may be parted into shards, of which none is known to be smaller than this.
    largest = bill.model_bytes if subject.config.method != "full" else min(bill.model_bytes, 1 << 30)
    if limit < largest:
        yield error(
            f"no file may grow beyond {gib(limit)}, and a checkpoint's files are larger: {gib(largest)}",
            "ulimit -f",
            "ulimit -f unlimited, or have the hard limit raised: /etc/security/limits.conf",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _addresses(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """CUDA reserves addresses for the memory of every GPU and of the machine; nothing of that is used at first."""
    for kind, letter in ((resource.RLIMIT_AS, "v"), (resource.RLIMIT_DATA, "d")):
        limit = _limit(kind)
        if limit is None:
            continue
        needed = sum(subject.hardware.gpu_memory_bytes) if plan.device == "gpu" else _weights(subject)
        what = f"a process may have {gib(limit)} of addresses"
        if plan.device == "gpu" and limit < needed and letter == "v":
            yield error(
                f"{what}, and CUDA reserves as much as all GPUs have, {gib(needed)}: it says that it is out of memory",
                f"ulimit -{letter}",
                f"ulimit -{letter} unlimited",
                exit_code=ExitCode.ENVIRONMENT,
            )
        elif limit < needed:
            yield error(
                f"{what}, and the weights alone take {gib(needed)}",
                f"ulimit -{letter}",
                f"ulimit -{letter} unlimited",
                exit_code=ExitCode.ENVIRONMENT,
            )


def _locked(plan: Plan) -> Iterator[Finding]:
    """InfiniBand has the memory that it sends from stay where it is."""
    limit = _limit(resource.RLIMIT_MEMLOCK)
    has_cards = INFINIBAND.is_dir() and any(INFINIBAND.iterdir())
    if plan.nodes > 1 and plan.device == "gpu" and limit is not None and limit < PINNED_BYTES and has_cards:
        yield warning(
            f"a process may lock {limit // 1024} KiB of memory, and InfiniBand locks more: NCCL fails, or falls back to TCP",
            "ulimit -l",
            "have it set to unlimited on every node: memlock in /etc/security/limits.conf, LimitMEMLOCK= of slurmd",
        )


def _shared(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """DataLoader workers and NCCL hand over tensors in /dev/shm, of which a container has 64 MiB unless told otherwise."""
    training = subject.config.training
    workers = _workers(subject) * plan.processes_per_node
    gpus = plan.processes_per_node if plan.device == "gpu" and plan.processes_per_node > 1 else 0
    if not workers and not gpus:
        return
    if not os.access(SHM, os.W_OK | os.X_OK):
        what = f"{SHM} cannot be written, and {'DataLoader workers' if workers else 'NCCL'} need it"
        fix = "mount it (docker run --shm-size=8g), or set dataloader_num_workers: 0"
        yield error(what, str(SHM), fix, exit_code=ExitCode.ENVIRONMENT)
        return
    rows = plan.micro_batch * (training.dataloader_prefetch_factor or BATCHES_AHEAD)
    needed = gpus * SHM_PER_GPU + workers * rows * (training.max_length or 0) * ROW_BYTES
    left = os.statvfs(SHM)
    free = left.f_bavail * left.f_frsize
    if free < needed:
        who = " and ".join(
            filter(
                None, (f"{workers} DataLoader workers" * bool(workers), f"NCCL of {gpus} GPUs" * bool(gpus))
            )
        )
        yield warning(
            f"{gib(free)} are free in shared memory, and {who} may take {gib(needed)}: a rank is then killed by SIGBUS",
            str(SHM),
            "give the container more (docker run --shm-size=8g, or --ipc=host), or remove what is left in there",
        )


def _memory(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """Hold the machine's memory, or what its cgroup leaves of it, against what lies there for certain."""
    config = subject.config
    tensors = subject.tensors
    if tensors is None or config.is_quantized:
        return
    count, weights = sum(tensor.count for tensor in tensors), _weights(subject)
    full = config.method == "full"
    if plan.device == "cpu":
        each = weights if not plan.strategy.shards_parameters else weights // plan.processes
        needed = plan.processes_per_node * each
        what = f"{plan.processes_per_node} x the weights"
    elif plan.strategy in ("zero3_offload", "fsdp2_offload") and full and plan.offload != "parameters":
        needed = 12 * count // plan.nodes  # master weights and two moments in float32, over all processes
        what = "the optimizer's states, which are kept in host memory,"
    else:
        return
    most = _most_memory(subject)
    if needed > most:
        yield error(
            f"{what} take {gib(needed)}, and this machine lets a job have {gib(most)}",
            "memory of this machine",
            "use more nodes, a smaller model, or a strategy that shards: launch.strategy: zero3",
            exit_code=ExitCode.DOES_NOT_FIT,
        )


def _weights(subject: Subject) -> int:
    """Return the bytes of the weights as they are loaded; 0 where that is not known."""
    if subject.tensors is None or subject.config.is_quantized:
        return 0
    each = {"auto": None, "bfloat16": 2.0, "float16": 2.0}.get(str(subject.config.model.dtype), 4.0)
    if "quantization_config" in subject.model_config:
        each = None
    return round(sum(tensor.count * (each or tensor.bytes_each) for tensor in subject.tensors))


def _most_memory(subject: Subject) -> int:
    names = ("memory.max", "memory.limit_in_bytes")
    limits = [_number(group / name) for group in _groups("memory") for name in names]
    return min([subject.hardware.memory_bytes, *(limit for limit in limits if limit is not None)])


def _cores(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """More processes than cores wait for one another."""
    cores, ranks, workers = subject.hardware.cpu_cores, plan.processes_per_node, _workers(subject)
    if ranks > cores:
        yield warning(
            f"{ranks} processes share {cores} cores: each waits for the others",
            "launch.processes_per_node" if plan.device == "cpu" else "launch.gpus_per_node",
            "ask for more cores (launch.slurm.cpus_per_task), or start fewer processes",
        )
    elif workers and ranks * workers > 2 * cores:
        yield warning(
            f"{ranks} x {workers} DataLoader workers share {cores} cores, and keep the ranks from them",
            "dataloader_num_workers",
            f"set dataloader_num_workers: {max(1, cores // ranks - 1)}",
        )
