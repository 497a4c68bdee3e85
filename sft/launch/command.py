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


def launch_command(config: RunConfig, accelerate_yaml: Path, run_yaml: Path) -> list[str]:
    """Return the command with the site's wrapper, if any, before it."""
    return [*shlex.split(config.launch.wrap), *accelerate_command(accelerate_yaml, run_yaml)]


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
    if plan.threads_per_process is not None and "OMP_NUM_THREADS" not in environment:
        ours["OMP_NUM_THREADS"] = str(plan.threads_per_process)
    return ours


def shell_command(command: list[str], environment: Mapping[str, str]) -> str:
    """Return a line that a person can paste."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*settings, shlex.join(command)])
