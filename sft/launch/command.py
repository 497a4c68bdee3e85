"""The command of a launch and the environment of its processes: pure functions of plan and paths."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from sft.config.run import RunConfig
from sft.plan.plan import Plan

PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def accelerate_command(accelerate_yaml: Path, run_yaml: Path) -> list[str]:
    """Return `accelerate launch ...` as this Python's own accelerate runs it.

    Under its other name, `accelerate-launch`, which does not import accelerate's other commands: 1.5 s sooner.
    """
    beside = Path(sys.executable).with_name("accelerate-launch")
    accelerate = [str(beside)] if beside.exists() else [sys.executable, "-m", "accelerate.commands.launch"]
    return [
        *accelerate,
        "--config_file",
        str(accelerate_yaml),
        "-m",
        "sft.training.train",
        "--config",
        str(run_yaml),
    ]


def launch_command(
    config: RunConfig, accelerate_yaml: Path, run_yaml: Path, machine_rank: int = 0
) -> list[str]:
    """Return the command with the site's wrapper, if any, before it. The nodes share one file, which is machine 0's."""
    command = accelerate_command(accelerate_yaml, run_yaml)
    if machine_rank:
        place = command.index("-m", command.index("--config_file"))
        command[place:place] = ["--machine_rank", str(machine_rank)]
    return [*shlex.split(config.launch.wrap), *command]


def process_environment(
    config: RunConfig, plan: Plan, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return what is set for the launched processes, besides what they inherit.

    PYTHONSAFEPATH keeps a user's own `sft.py` in the working directory from shadowing the package; accelerate
    puts that directory on PYTHONPATH under DeepSpeed, so ours goes there before it.
    """
    ours = {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PACKAGE_ROOT), environment.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": environment.get("TOKENIZERS_PARALLELISM", "false"),
        **config.kit.env,
    }
    if plan.device == "cpu":
        ours["DS_ACCELERATOR"] = "cpu"
        ours["CUDA_VISIBLE_DEVICES"] = ""
    if config.launch.offline:
        ours |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    if config.launch.network_interface:
        ours |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), config.launch.network_interface)
    if plan.threads_per_process is not None and "OMP_NUM_THREADS" not in environment:
        ours["OMP_NUM_THREADS"] = str(plan.threads_per_process)
    return ours


def transport_environment(
    config: RunConfig, plan: Plan, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return what has NCCL say to a file which network it goes over, unless a user has it say more.

    sft/training/transport.py reads it before the training.
    """
    if plan.device != "gpu" or plan.nodes == 1 or "NCCL_DEBUG" in environment:
        return {}
    logs = str(config.run.logs).replace("%", "%%")
    return {
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,NET",
        "NCCL_DEBUG_FILE": f"{logs}/nccl-%h-%p.log",
    }


def one_line(text: str) -> str:
    """Write control characters as escapes: in a comment, what follows a line break would be a line of its own."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shell_command(command: list[str], environment: Mapping[str, str]) -> str:
    """Return a line that a person can paste."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*settings, shlex.join(command)])
