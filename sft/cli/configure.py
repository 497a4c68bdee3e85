"""Write an accelerate configuration, by questions or by flags.

Without --strategy it asks, on a terminal. With it, it asks nothing. Prints the path of the file, or with
--per-machine the command of each machine. With --site it writes a group's defaults for `launch:` instead.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sft.launch.configure import Answers
    from sft.plan.hardware import Hardware

STRATEGIES = (
    "single", "ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2", "fsdp2_offload", "single_gpu", "multi_gpu",
)  # fmt: skip


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="how the model is laid over the processes; asks where it is left out",
    )
    parser.add_argument("--device", choices=("gpu", "cpu"), help="[gpu where this machine shows one]")
    counts = parser.add_mutually_exclusive_group()
    counts.add_argument("--gpus-per-node", type=_count, metavar="N", help="[every GPU of this machine]")
    counts.add_argument("--processes-per-node", type=_count, metavar="N", help="the same, on CPU")
    parser.add_argument("--nodes", type=_count, default=1, metavar="N", help="machines [1]")
    parser.add_argument("--main-process-ip", metavar="ADDRESS", help="machine 0, where there are several")
    parser.add_argument(
        "--main-process-port", type=_port, metavar="PORT", help="[29500; any free one on one machine]"
    )
    parser.add_argument(
        "--mixed-precision",
        choices=("auto", "bf16", "fp16", "fp32", "no"),
        default="auto",
        help="auto leaves it to the run file; fp32 and no are the same [auto]",
    )
    parser.add_argument(
        "--offload",
        choices=("optimizer", "parameters", "both"),
        help="what zero3_offload keeps in host memory [both]",
    )
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--output", metavar="FILE", help="- for stdout [STRATEGY.yaml]")
    places.add_argument(
        "--per-machine", metavar="DIR", help="one file a machine, with rank, address and port in place"
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.add_argument(
        "--site",
        action="store_true",
        help="write a group's site file instead, from what this cluster's Slurm shows (SFT_SITE)",
    )
    parser.add_argument("--partition", metavar="NAME", help="with --site: the partition to take")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    """Ask or read the flags, write the files, and print where they are."""
    if arguments.site or arguments.partition:
        return _site(arguments)
    from sft.launch.configure import arrange, commands, files_of, output_of, write_all
    from sft.plan.hardware import detect

    hardware = detect()
    asked = arguments.strategy is None
    try:
        answers = _ask(arguments, hardware) if asked else _flags(arguments)
        arrangement = arrange(answers, hardware)
        files = files_of(answers, arrangement)
        if answers.per_machine is None and output_of(answers) == "-":
            print(files["-"], end="")
            return 0
        write_all(files, force=arguments.force or (asked and _replaces(files)))
    except (KeyboardInterrupt, EOFError):
        print("Stopped. Nothing was written.", file=sys.stderr)
        return 130
    lines = commands(files)
    for path in files:
        print(f"wrote {path}", file=sys.stderr)
    if answers.per_machine is not None:
        print("\n".join(lines))
        return 0
    print(f"use it: launch: {{accelerate_config: {output_of(answers)}}} in the run file, or", file=sys.stderr)
    print(f"  {lines[0]}", file=sys.stderr)
    print(output_of(answers))
    return 0


def _site(arguments: argparse.Namespace) -> int:
    """Write a site file, to stdout where no --output is named."""
    import getpass

    from sft.errors import UserError
    from sft.launch.configure import write_all
    from sft.launch.site import accounts, interfaces, partitions, site_text

    if not arguments.site or arguments.strategy:
        raise UserError("--site writes no accelerate file", None, "sft configure --site [--partition NAME]")
    text = site_text(partitions(), accounts(getpass.getuser()), interfaces(), name=arguments.partition)
    if arguments.output in (None, "-"):
        print(text, end="")
        return 0
    write_all({arguments.output: text}, force=arguments.force)
    print(f"use it: export SFT_SITE={arguments.output}", file=sys.stderr)
    print(arguments.output)
    return 0


def _flags(arguments: argparse.Namespace) -> Answers:
    from sft.config.kit import STRATEGY_ALIASES, Strategy
    from sft.errors import UserError
    from sft.launch.configure import Answers

    if arguments.gpus_per_node and arguments.device == "cpu":
        raise UserError("--gpus-per-node has no effect on CPU", None, "use --processes-per-node")
    strategy = STRATEGY_ALIASES.get(arguments.strategy)
    return Answers(
        strategy=strategy or Strategy(arguments.strategy),
        device=arguments.device,
        processes_per_node=arguments.gpus_per_node or arguments.processes_per_node,
        nodes=arguments.nodes,
        mixed_precision="no" if arguments.mixed_precision == "fp32" else arguments.mixed_precision,
        offload=arguments.offload,
        main_process_ip=arguments.main_process_ip,
        main_process_port=arguments.main_process_port,
        output=arguments.output,
        per_machine=arguments.per_machine,
    )


def _ask(arguments: argparse.Namespace, hardware: Hardware) -> Answers:
    from sft.errors import UserError

    given = [
        f"--{name.replace('_', '-')}"
        for name, value in vars(arguments).items()
        if value not in (None, False) and (name, value) not in (("nodes", 1), ("mixed_precision", "auto"))
    ]
    fix = "sft configure --strategy zero3 --gpus-per-node 4 --output zero3.yaml"
    if given:
        raise UserError(f"{given[0]} needs a strategy", None, fix)
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise UserError("sft configure asks its questions on a terminal, and there is none here", None, fix)
    from sft.launch.wizard import ask

    return ask(hardware)


def _replaces(files: dict[str, str]) -> bool:
    from pathlib import Path

    from sft.launch.configure import text_of
    from sft.launch.wizard import may_replace

    different = [path for path, text in files.items() if Path(path).exists() and text_of(Path(path)) != text]
    return bool(different) and may_replace(different)
