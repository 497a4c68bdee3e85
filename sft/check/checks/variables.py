"""Environment variables that change a run in silence, or end it: what is left of another launcher, of a search, of a habit.

Only of what reaches the ranks: what `accelerate launch` sets itself (ACCELERATE_MIXED_PRECISION, RANK of several processes)
is overwritten by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sft.check.allocator import VARIABLES as ALLOCATOR
from sft.check.allocator import problems as allocator_problems
from sft.check.finding import Finding, error, note, warning
from sft.check.needs import model_needs
from sft.check.subject import Subject
from sft.errors import ExitCode

NAME = "variables"
COST = "the environment, and the names of the network interfaces"
NEEDS = "a plan"

INTERFACES = Path("/sys/class/net")
SWITCHES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM": "",
}
"""Variable -> the kind of training that it switches on; accelerate's launcher sets its own, and clears no other."""
RANKS = {"LOCAL_RANK": "-1", "RANK": "0"}
"""What makes a process a rank of a run, and the value that does not. Source: accelerate/state.py, _prepare_backend."""
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE")
"""What does so on the CPU."""
SLOW = {
    "NCCL_P2P_DISABLE": "GPUs of one machine speak through host memory, not with each other",
    "NCCL_SHM_DISABLE": "GPUs of one machine speak over the network",
    "NCCL_IB_DISABLE": "the nodes speak over TCP, though there may be InfiniBand",
}
TRUE = ("1", "true", "yes", "on")


def look(subject: Subject) -> Iterator[Finding]:
    """Tell each variable that takes effect, and is seldom meant."""
    yield from _left_over(subject)
    yield from _numbers(subject)
    yield from _interfaces(subject)
    yield from _slow(subject)
    yield from _of_gpus(subject)
    yield from _of_the_hub(subject)
    yield from _of_reports(subject)


def _is_on(subject: Subject, name: str) -> bool:
    return subject.environment.get(name, "").lower() in TRUE


def _left_over(subject: Subject) -> Iterator[Finding]:
    """Tell what another launcher has left, which would make of this run a part of that one."""
    assert subject.plan is not None
    plan, environment = subject.plan, subject.environment
    for name, kind in SWITCHES.items():
        # On the CPU accelerate passes over FSDP, and trains as planned.
        is_felt = plan.device == "gpu" or (plan.processes > 1 and kind == "DEEPSPEED")
        if is_felt and _is_on(subject, name) and plan.distributed_type != kind:
            yield error(
                f"{name}={environment[name]} makes the ranks train otherwise than planned, which is {plan.strategy.value}",
                name,
                f"unset {name}: it is left of another `accelerate launch`",
                exit_code=ExitCode.ENVIRONMENT,
            )
    if environment.get("ACCELERATE_TORCH_DEVICE"):
        name = "ACCELERATE_TORCH_DEVICE"
        what = f"{name}={environment[name]} puts every rank on that device, whatever was planned"
        yield warning(what, name, f"unset {name}")
    if plan.processes > 1:  # torchrun says to each rank which it is; the launcher of one process says nothing
        if plan.device == "gpu" and _is_on(subject, "ACCELERATE_USE_CPU"):
            what = "ACCELERATE_USE_CPU has the ranks train on the CPU, and GPUs were planned"
            fix = "unset ACCELERATE_USE_CPU: it is left of another `accelerate launch`"
            yield error(what, "ACCELERATE_USE_CPU", fix, exit_code=ExitCode.ENVIRONMENT)
        return
    left = [name for name, harmless in RANKS.items() if environment.get(name, harmless) not in ("", harmless)]
    if plan.device == "cpu":
        left += [name for name in SIZES if environment.get(name, "1") not in ("", "1")]
    if left:
        told = " ".join(f"{name}={environment[name]}" for name in left)
        yield error(
            f"{told}: the run would take itself for a part of another one, and wait for the rest of it",
            ", ".join(left),
            f"unset {' '.join(left)}; inside an MPI or torchrun job, start `sft launch` once, outside of it",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _numbers(subject: Subject) -> Iterator[Finding]:
    """OMP_NUM_THREADS is a number for accelerate's launcher, though OpenMP itself takes a list."""
    threads = subject.environment.get("OMP_NUM_THREADS")
    if threads is not None and not threads.strip().isdigit():
        yield error(
            f"OMP_NUM_THREADS={threads!r} is no number, and accelerate's launcher fails to read it",
            "OMP_NUM_THREADS",
            "unset it, or set launch.threads_per_process: 8",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _interfaces(subject: Subject) -> Iterator[Finding]:
    """Tell an interface that this machine lacks: gloo and NCCL find no network then, and every rank ends."""
    assert subject.plan is not None
    plan = subject.plan
    if subject.in_batch or plan.processes == 1 or not INTERFACES.is_dir():
        return
    there = sorted(path.name for path in INTERFACES.iterdir())
    key = subject.config.launch.network_interface
    wanted: dict[str, list[str]] = {}
    if key:
        wanted[key] = ["launch.network_interface"]
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = subject.environment.get(name)
        if value and not key and (plan.device == "gpu" or name.startswith("GLOO")):
            wanted.setdefault(value, []).append(name)
    for value, places in wanted.items():
        if not _matches(value, there, exactly=places[0].startswith("GLOO")):
            yield error(
                f"there is no network interface {value} on this machine",
                " and ".join(places),
                f"name one of: {', '.join(there)} (`ip -4 addr` shows their addresses)",
                exit_code=ExitCode.ENVIRONMENT,
            )


def _matches(value: str, there: list[str], *, exactly: bool) -> bool:
    """Whether a list of interfaces leaves any, as NCCL reads it: prefixes, `=` for whole names, `^` for all but.

    Source:
        NCCL's manual, "Environment Variables", NCCL_SOCKET_IFNAME.
    """
    if value.startswith("^"):
        return True
    names = [name.strip().partition(":")[0] for name in value.removeprefix("=").split(",")]
    if exactly or value.startswith("="):
        return any(name in there for name in names)
    return any(interface.startswith(name) for name in names for interface in there)


def _slow(subject: Subject) -> Iterator[Finding]:
    """Tell what makes every step slower: set once to find a fault, and left."""
    assert subject.plan is not None
    plan = subject.plan
    if plan.device == "gpu" and plan.processes > 1:
        for name, effect in SLOW.items():
            is_felt = plan.nodes > 1 if name == "NCCL_IB_DISABLE" else plan.processes_per_node > 1
            if _is_on(subject, name) and is_felt:
                yield warning(
                    f"{name}=1: {effect}", name, f"unset {name}, unless this machine hangs without it"
                )
    if plan.device == "gpu" and _is_on(subject, "CUDA_LAUNCH_BLOCKING"):
        what = "CUDA_LAUNCH_BLOCKING=1 has the GPU wait for every kernel, which can halve the speed"
        yield warning(what, "CUDA_LAUNCH_BLOCKING", "unset it, unless you look for a fault")
    if plan.processes > 1 and subject.environment.get("TORCH_DISTRIBUTED_DEBUG", "").upper() == "DETAIL":
        what = "TORCH_DISTRIBUTED_DEBUG=DETAIL has the ranks compare every collective, and slows each step"
        yield warning(what, "TORCH_DISTRIBUTED_DEBUG", "unset it, unless you look for a fault")
    for name in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"):
        if subject.config.training.torch_compile and _is_on(subject, name):
            yield warning(
                f"{name}=1: torch_compile has no effect", name, f"unset {name}, or torch_compile: false"
            )
    for name in ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "NCCL_ASYNC_ERROR_HANDLING"):
        if plan.device == "gpu" and plan.processes > 1 and subject.environment.get(name) == "0":
            what = f"{name}=0: where one rank fails, the others wait for it until the kit ends the run for a hang"
            yield warning(what, name, f"unset {name}")


def _of_gpus(subject: Subject) -> Iterator[Finding]:
    assert subject.plan is not None
    if subject.plan.device != "gpu":
        return
    for name in ALLOCATOR:
        for what, spelled, is_certain in allocator_problems(subject.environment.get(name, "")):
            what, fix = f"{name}: {what}", f"spell it {spelled}"
            if is_certain:
                yield error(what, name, fix, exit_code=ExitCode.ENVIRONMENT)
            else:
                yield warning(what, name, fix)
    if subject.environment.get("PYTORCH_NO_CUDA_MEMORY_CACHING"):
        name = "PYTORCH_NO_CUDA_MEMORY_CACHING"
        what = f"{name} is set, whatever to: torch then asks the driver for every tensor, which is slow"
        yield warning(what, name, f"unset {name}")
    accelerator = subject.environment.get("DS_ACCELERATOR", "cuda")
    if subject.plan.strategy.is_deepspeed and accelerator != "cuda":
        yield error(
            f"DS_ACCELERATOR={accelerator}: DeepSpeed would not use the GPUs",
            "DS_ACCELERATOR",
            "unset DS_ACCELERATOR",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _of_the_hub(subject: Subject) -> Iterator[Finding]:
    environment = subject.environment
    endpoint = environment.get("HF_ENDPOINT")
    names = [need for need in model_needs(subject.config) if need.is_on_hub]
    if endpoint and not endpoint.startswith(("http://", "https://")):
        what = f"HF_ENDPOINT={endpoint} is no address: it begins with neither https:// nor http://"
        if names or subject.config.training.push_to_hub:
            yield error(
                what, "HF_ENDPOINT", f"export HF_ENDPOINT=https://{endpoint}", exit_code=ExitCode.ENVIRONMENT
            )
    elif (
        endpoint
        and endpoint.rstrip("/") != "https://huggingface.co"
        and (names or subject.config.training.push_to_hub)
    ):
        from sft.hub.settings import without_password

        yield note(f"the Hub is asked at {without_password(endpoint)} (HF_ENDPOINT)")
    offline = next(
        (name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_on(subject, name)), None
    )
    if offline is None or subject.offline or subject.config.launch.offline or subject.in_batch:
        return
    from sft.hub.cached import snapshot_of  # huggingface_hub takes a while to start

    for need in names:
        if snapshot_of(need.name, need.revision) is None:
            yield error(
                f"{offline}={environment[offline]} keeps the run off the Hub, and the model {need.name} is not in the cache",
                need.key,
                f"unset {offline}; or where there is a network: {offline}=0 sft fetch RUN.yaml",
                exit_code=ExitCode.ENVIRONMENT,
            )


def _of_reports(subject: Subject) -> Iterator[Finding]:
    reports = subject.config.training.report_to
    if "wandb" in ([reports] if isinstance(reports, str) else reports or []) and _is_on(
        subject, "WANDB_DISABLED"
    ):
        yield warning(
            "WANDB_DISABLED is not read: the run is shown in W&B",
            "WANDB_DISABLED",
            "to have no W&B, set report_to: none, or export WANDB_MODE=disabled",
        )
