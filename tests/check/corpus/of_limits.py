"""Broken setups: limits of the machine, and ports that are taken."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from sft.check.checks import limits
from tests.check.corpus.bench import Bench, Broken
from tests.check.corpus.of_gpus import H100, on
from tests.check.nvml import Card


def limited(kind: int, soft: int, **settings: Any) -> Callable[[Bench], object]:
    """Return what lowers a limit, as far as the kit sees it: a real one would bind the tests as well."""

    def build(bench: Bench) -> None:
        real = resource.getrlimit

        def told(wanted: int) -> tuple[int, int]:
            return (soft, real(wanted)[1]) if wanted == kind else real(wanted)

        bench.monkeypatch.setattr(resource, "getrlimit", told)
        bench.settings.update(settings)

    return build


def address_space(bench: Bench) -> None:
    on(H100)(bench)
    limited(resource.RLIMIT_AS, 46 << 30)(bench)


def small_shared_memory(bench: Bench) -> None:
    """Docker gives 64 MiB; what is free of it is told by the file system."""
    on(*(Card() for _ in range(4)))(bench)
    real = os.statvfs

    def told(path: Any) -> Any:
        return SimpleNamespace(f_bavail=16384, f_frsize=4096) if path == limits.SHM else real(path)

    bench.monkeypatch.setattr(os, "statvfs", told)


def no_shared_memory(bench: Bench) -> None:
    bench.monkeypatch.setattr(limits, "SHM", bench.directory / "shm")
    bench.settings["dataloader_num_workers"] = 2


def few_threads(bench: Bench) -> None:
    """Write what a container's cgroup says."""
    group = bench.directory / "cgroup"
    (group / "pids").mkdir(parents=True)
    (group / "pids" / "pids.max").write_text("100\n")
    (group / "pids" / "pids.current").write_text("60\n")
    bench.monkeypatch.setattr(limits, "CGROUP", group)


def little_memory(bench: Bench) -> None:
    group = bench.directory / "cgroup"
    group.mkdir()
    (group / "memory.max").write_text("100000\n")
    bench.monkeypatch.setattr(limits, "CGROUP", group)


def taken_port(nodes: int) -> Callable[[Bench], object]:
    """Return what listens at the port that a run wants."""

    def build(bench: Bench) -> None:
        held = bench.stack.enter_context(socket.create_server(("", 0)))
        bench.launch(processes_per_node=2, main_process_port=held.getsockname()[1])
        if nodes > 1:
            own = socket.gethostbyname(socket.gethostname())
            bench.launch(nodes=nodes, main_process_ip=own)

    return build


def machine_0(address: str) -> Callable[[Bench], object]:
    """Return what names machine 0."""

    def build(bench: Bench) -> None:
        bench.launch(processes_per_node=1, nodes=2, main_process_ip=address)

    return build


BROKEN = (
    Broken(
        "too few open files for the workers of a DataLoader",
        "https://github.com/pytorch/pytorch/issues/165532",
        "a process may have 256 files open, and a rank with 2 DataLoader workers has up to 304",
        "limits",
        limited(resource.RLIMIT_NOFILE, 256, dataloader_num_workers=2),
    ),
    Broken(
        "files that may not grow to a checkpoint's size",
        "https://man7.org/linux/man-pages/man2/getrlimit.2.html",
        "no file may grow beyond",
        "limits",
        limited(resource.RLIMIT_FSIZE, 1024),
    ),
    Broken(
        "an address space smaller than the GPUs' memory",
        "https://github.com/nicolasprevot/GpuShareSat/issues/6",
        "a process may have 46.0 GiB of addresses, and CUDA reserves as much as all GPUs have, 80.0 GiB",
        "limits",
        address_space,
    ),
    Broken(
        "a container's 64 MiB of shared memory",
        "https://github.com/NVIDIA/nccl/issues/342",
        "64.0 MiB are free in shared memory, and NCCL of 4 GPUs may take 0.2 GiB",
        "limits",
        small_shared_memory,
    ),
    Broken(
        "no shared memory for the workers of a DataLoader",
        "https://github.com/pytorch/pytorch/issues/14768",
        "shm cannot be written, and DataLoader workers need it",
        "limits",
        no_shared_memory,
    ),
    Broken(
        "a container that may start few threads",
        "https://docs.kernel.org/admin-guide/cgroup-v2.html",
        "this container may start 40 more threads, and the run starts about",
        "limits",
        few_threads,
    ),
    Broken(
        "a container with less memory than the weights take",
        "https://docs.kernel.org/admin-guide/cgroup-v2.html",
        "1 x the weights take 0.4 MiB, and this machine lets a job have 0.1 MiB",
        "limits",
        little_memory,
    ),
    Broken(
        "more DataLoader workers than cores",
        "https://pytorch.org/docs/stable/data.html",
        "2 x 8 DataLoader workers share 2 cores",
        "limits",
        lambda bench: (
            bench.launch(processes_per_node=2),
            bench.settings.update(dataloader_num_workers=8),
        ),
    ),
    Broken(
        "the port of another run, on two machines",
        "https://github.com/NovaSearch-Team/RAG-Retrieval/issues/50",
        "of this machine is in use by ",
        "ports",
        taken_port(2),
    ),
    Broken(
        "the port of another run, on one machine",
        "https://github.com/huggingface/accelerate/issues/508",
        "accelerate looks for another one",
        "ports",
        taken_port(1),
    ),
    Broken(
        "a machine 0 that nobody knows",
        "https://github.com/NVIDIA/nccl/issues/286",
        "main_process_ip node0.invalid is a name that this machine does not know",
        "ports",
        machine_0("node0.invalid"),
    ),
    Broken(
        "machine 0 at the loopback",
        "https://github.com/NVIDIA/nccl/issues/286",
        "main_process_ip 127.0.0.1 is each machine's own",
        "ports",
        machine_0("127.0.0.1"),
    ),
)
