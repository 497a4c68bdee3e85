"""The questions of `sft configure`, asked on stderr so that stdout stays data. Nothing here writes a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import questionary
from prompt_toolkit.output import create_output
from questionary import Choice

from sft.config.kit import Strategy
from sft.launch.configure import Answers, cannot
from sft.plan.arrangement import DEFAULT_PORT
from sft.plan.hardware import Hardware

EXPLAINED = {
    Strategy.SINGLE: "one process; the model and its optimizer fit on one device",
    Strategy.DDP: "a whole copy of the model on each device; fastest where that fits",
    Strategy.ZERO1: "DeepSpeed: the optimizer's states are shared out",
    Strategy.ZERO2: "DeepSpeed: optimizer and gradients are shared out",
    Strategy.ZERO3: "DeepSpeed: parameters too; for models that do not fit on one device",
    Strategy.ZERO3_OFFLOAD: "zero3 with the optimizer, the parameters or both in host memory; slow, but fits",
    Strategy.FSDP2: "PyTorch's own way of sharing parameters, gradients and optimizer out",
    Strategy.FSDP2_OFFLOAD: "fsdp2 with all of them in host memory; slow, but fits",
}
PRECISIONS = {
    "auto": "the run file's bf16 and fp16 decide (TRL's default is bf16)",
    "bf16": "for GPUs since Ampere, and CPUs",
    "fp16": "for GPUs older than Ampere; needs loss scaling, which is set up by itself",
    "no": "float32 throughout: twice the memory, and slow",
}
OFFLOADS = {
    "both": "optimizer and parameters; the least GPU memory",
    "optimizer": "optimizer only; faster where the parameters fit",
    "parameters": "parameters only",
}


def ask(hardware: Hardware) -> Answers:
    """Ask for everything.

    Raises:
        KeyboardInterrupt, EOFError: the user left.
    """
    found = (
        f"this machine shows {hardware.gpus} GPU{'s' * (hardware.gpus != 1)} and {hardware.cpu_cores} cores"
    )
    device = _select(
        f"Device ({found})",
        {"gpu": "NVIDIA GPUs, one process each", "cpu": "no GPU: for trying things out"},
        "gpu" if hardware.gpus else "cpu",
    )
    disabled = {strategy.value: reason for strategy in Strategy if (reason := cannot(strategy, device))}
    several = hardware.gpus > 1 if device == "gpu" else True
    strategy = Strategy(
        _select(
            "Strategy",
            {strategy.value: text for strategy, text in EXPLAINED.items()},
            "ddp" if several else "single",
            disabled,
        )
    )
    answers = Answers(strategy=strategy, device=device)
    if strategy is Strategy.ZERO3_OFFLOAD:
        answers = replace(answers, offload=_select("What goes to host memory", OFFLOADS, "both"))
    if strategy is not Strategy.SINGLE:
        answers = _processes(answers, hardware)
    precisions = {name: text for name, text in PRECISIONS.items() if (device, name) != ("cpu", "fp16")}
    answers = replace(answers, mixed_precision=_select("Precision", precisions, "auto"))
    if answers.nodes > 1 and _yes("One file for each machine, with its rank in place?", True):
        return replace(answers, per_machine=_text("Directory for the files", "accelerate_machines"))
    return replace(answers, output=_text("File to write", f"{strategy.value}.yaml"))


def _processes(answers: Answers, hardware: Hardware) -> Answers:
    word, default = ("GPUs", hardware.gpus or 4) if answers.device == "gpu" else ("Processes", 2)
    nodes = _number("Machines", 1)
    answers = replace(answers, nodes=nodes, processes_per_node=_number(f"{word} on each machine", default))
    if nodes == 1:
        return answers
    address = _text("Address of machine 0, which the others can reach", "")
    return replace(
        answers, main_process_ip=address, main_process_port=_number("Port on machine 0", DEFAULT_PORT)
    )


def _stderr() -> Any:
    return create_output(stdout=sys.stderr)


def _select(
    message: str, options: dict[str, str], default: str, disabled: dict[str, str] | None = None
) -> Any:
    disabled = disabled or {}
    width = max(map(len, options))
    choices = [
        Choice(f"{name:<{width}}  {text}", name, disabled=disabled.get(name))
        for name, text in options.items()
    ]
    return questionary.select(
        f"{message} [{default}]", choices=choices, default=default, output=_stderr()
    ).unsafe_ask()


def _text(message: str, default: str) -> str:
    shown = f"{message} [{default}]:" if default else f"{message}:"
    answer = questionary.text(
        shown,
        validate=lambda text: bool(text.strip() or default) or "this one has no default",
        output=_stderr(),
    ).unsafe_ask()
    return str(answer).strip() or default


def _number(message: str, default: int) -> int:
    def check(text: str) -> bool | str:
        return not text.strip() or (text.strip().isdigit() and int(text) > 0) or "a whole number, 1 or more"

    answer = questionary.text(f"{message} [{default}]:", validate=check, output=_stderr()).unsafe_ask()
    return int(str(answer).strip() or default)


def _yes(message: str, default: bool) -> bool:
    return bool(questionary.confirm(message, default=default, output=_stderr()).unsafe_ask())


def may_replace(paths: list[str]) -> bool:
    """Ask before files that are there are replaced."""
    return _yes(f"Replace {', '.join(paths)}?", False)
