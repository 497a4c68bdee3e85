"""From answers to accelerate files on disk: what cannot work is refused, and writing is all or nothing.

The questions are `sft.launch.wizard`'s, the flags are `sft.cli.configure`'s; both end in `Answers`.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sft.config.kit import Strategy
from sft.errors import ExitCode, Problem, UserError
from sft.launch.accelerate_file import render
from sft.plan.arrangement import DEFAULT_PORT, Arrangement, Device, Offload, Precision
from sft.plan.hardware import Hardware


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What was asked for; None where nothing was said."""

    strategy: Strategy
    device: Device | None = None
    processes_per_node: int | None = None
    nodes: int = 1
    mixed_precision: Precision = "auto"
    offload: Offload | None = None
    main_process_ip: str | None = None
    main_process_port: int | None = None
    output: str | None = None
    """A path, or - for stdout."""
    per_machine: str | None = None
    """A directory that gets one file a machine."""


def cannot(strategy: Strategy, device: Device) -> str | None:
    """Say why a strategy does not run on a device; None where it does."""
    if strategy.is_fsdp and device == "cpu":
        return "accelerate runs FSDP on GPUs only, and trains as DDP on CPUs without a word"
    return None


def arrange(answers: Answers, hardware: Hardware) -> Arrangement:
    """Complete the answers from this machine, and check them.

    Raises:
        UserError: every reason why no file can be written.
    """
    strategy, nodes = answers.strategy, answers.nodes
    problems: list[Problem] = []
    device = answers.device or ("gpu" if hardware.gpus or answers.processes_per_node else None)
    count = answers.processes_per_node
    if strategy is Strategy.SINGLE and count is None:
        count = 1
    if count is None and device == "gpu" and hardware.gpus:
        count = hardware.gpus
    if device is None or count is None:
        told = "a GPU" if device is None else "the number of GPUs"
        fix = "name it: --gpus-per-node 4, or --device cpu --processes-per-node 2"
        if device == "cpu":
            told, fix = "the number of processes", "name it: --processes-per-node 2"
        raise UserError(f"the file needs {told}, and this machine does not show it", None, fix)
    reason = cannot(strategy, device)
    if reason:
        nearest = "zero3" if strategy is Strategy.FSDP2 else "zero3_offload"
        problems.append(
            Problem(f"{strategy} on CPU cannot work: {reason}", None, f"use --strategy {nearest}")
        )
    if device == "cpu" and answers.mixed_precision == "fp16":
        problems.append(
            Problem(
                "fp16 on CPU cannot work: accelerate and DeepSpeed have it on GPUs only",
                None,
                "use --mixed-precision bf16",
            )
        )
    if strategy is Strategy.SINGLE and count * nodes > 1:
        problems.append(
            Problem(f"strategy single is one process, not {count * nodes}", None, "use --strategy ddp")
        )
    if strategy is Strategy.DDP and count * nodes == 1:
        problems.append(Problem("strategy ddp with one process is single", None, "use --strategy single"))
    if answers.offload and strategy is not Strategy.ZERO3_OFFLOAD:
        fix = "use --strategy zero3_offload" if strategy is Strategy.ZERO3 else "remove --offload"
        problems.append(Problem(f"--offload has no effect on {strategy}", None, fix))
    problems += _machines(answers)
    if problems:
        raise UserError.of(problems)
    return Arrangement(
        strategy=strategy,
        device=device,
        processes_per_node=count,
        nodes=nodes,
        mixed_precision=answers.mixed_precision,
        main_process_ip=answers.main_process_ip,
        main_process_port=answers.main_process_port or (DEFAULT_PORT if nodes > 1 else None),
        # A process that sees several GPUs would be spread over them by the trainer, as nn.DataParallel.
        gpu_ids="0" if strategy is Strategy.SINGLE and device == "gpu" else None,
        offload=answers.offload or "both",
    )


def _machines(answers: Answers) -> list[Problem]:
    """Check what several machines need, and what one has no use for."""
    if answers.nodes > 1:
        if answers.main_process_ip is None:
            return [
                Problem(
                    f"{answers.nodes} machines need to know where machine 0 is",
                    None,
                    "add --main-process-ip ADDRESS, which every machine can reach",
                )
            ]
        if answers.main_process_port == 0:
            return [Problem("several machines cannot meet at any free port", None, "name one: 29500")]
        return []
    problems = []
    if answers.main_process_ip is not None:
        problems.append(
            Problem("--main-process-ip has no effect on one machine", None, "remove it, or add --nodes 2")
        )
    if answers.per_machine is not None:
        problems.append(
            Problem("--per-machine is for several machines", None, "use --output, or add --nodes 2")
        )
    if answers.main_process_port is not None and answers.strategy is Strategy.SINGLE:
        problems.append(
            Problem("a single process meets no other at a port", None, "remove --main-process-port")
        )
    return problems


def command_of(answers: Answers, arrangement: Arrangement) -> str:
    """Return the flags that give the same files, whatever machine they are typed on."""
    words = ["sft", "configure", "--strategy", arrangement.strategy.value, "--device", arrangement.device]
    if arrangement.strategy is not Strategy.SINGLE:
        flag = "--gpus-per-node" if arrangement.device == "gpu" else "--processes-per-node"
        words += [flag, str(arrangement.processes_per_node)]
    if arrangement.nodes > 1:
        words += ["--nodes", str(arrangement.nodes), "--main-process-ip", str(arrangement.main_process_ip)]
    if arrangement.main_process_port is not None:
        words += ["--main-process-port", str(arrangement.main_process_port)]
    if arrangement.mixed_precision != "auto":
        words += ["--mixed-precision", arrangement.mixed_precision]
    if arrangement.strategy is Strategy.ZERO3_OFFLOAD:
        words += ["--offload", arrangement.offload]
    if answers.per_machine is not None:
        words += ["--per-machine", answers.per_machine]
    else:
        words += ["--output", output_of(answers)]
    return shlex.join(words)


def output_of(answers: Answers) -> str:
    """Return where one file goes."""
    return answers.output or f"{answers.strategy.value}.yaml"


def files_of(answers: Answers, arrangement: Arrangement) -> dict[str, str]:
    """Return the files of the answers, path to text, DeepSpeed's before those that name them.

    Raises:
        UserError: a DeepSpeed file has no place.
    """
    command = command_of(answers, arrangement)
    deepspeed_path = None
    if answers.per_machine is not None:
        paths = [str(Path(answers.per_machine) / f"machine-{rank}.yaml") for rank in range(arrangement.nodes)]
        deepspeed_path = str(Path(answers.per_machine) / "deepspeed.json")
    else:
        paths = [output_of(answers)]
        if paths[0] == "-" and arrangement.strategy.is_deepspeed:
            raise UserError(
                f"{arrangement.strategy} has a DeepSpeed file beside the YAML, and stdout is one file",
                None,
                f"use --output {arrangement.strategy.value}.yaml",
            )
        deepspeed_path = str(Path(paths[0]).with_suffix(".json"))
        if deepspeed_path == paths[0]:
            raise UserError(
                f"{paths[0]} is a YAML file, and DeepSpeed's is the .json", None, "use --output NAME.yaml"
            )
    files: dict[str, str] = {}
    yamls: dict[str, str] = {}
    for rank, path in enumerate(paths):
        rendered = render(
            replace(arrangement, machine_rank=rank), command=command, deepspeed_path=deepspeed_path
        )
        yamls[path] = rendered.accelerate_yaml
        if rendered.deepspeed_json is not None:
            files[deepspeed_path] = rendered.deepspeed_json
    return {**files, **yamls}


def write_all(files: Mapping[str, str], *, force: bool = False) -> None:
    """Write every file or none: all beside their places first, then renamed, DeepSpeed's first.

    A file that is there already with the same text is left as it is.

    Raises:
        UserError: a file is there with another text, or a directory cannot be written.
    """
    targets = {Path(path): text for path, text in files.items()}
    different = [path for path, text in targets.items() if path.exists() and text_of(path) != text]
    if different and not force:
        raise UserError.of(
            Problem(
                f"{path} is there already, and is different", None, "choose another --output, or add --force"
            )
            for path in different
        )
    waiting: list[tuple[str, Path]] = []
    try:
        for path, text in targets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            waiting.append((aside, path))
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(aside, 0o644)
        while waiting:
            os.replace(*waiting[0])
            waiting.pop(0)
    except OSError as error:
        raise UserError(
            f"the file cannot be written: {error.strerror}",
            str(error.filename),
            "choose a directory that is yours",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    finally:
        for aside, _ in waiting:
            Path(aside).unlink(missing_ok=True)


def text_of(path: Path) -> str | None:
    """Return a file's text; None where it is no text, or cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def commands(files: Mapping[str, str]) -> list[str]:
    """Return the command of each machine, in order of rank."""
    return [
        shlex.join(["accelerate", "launch", "--config_file", path, "-m", "sft.training.train", "--config"])
        + " RUN.yaml"
        for path in files
        if path.endswith((".yaml", ".yml"))
    ]
