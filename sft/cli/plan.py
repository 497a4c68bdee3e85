"""Say what a run will need: memory of a GPU line by line, whether it fits, and how long it takes. Without torch or a GPU.

sft plan run.yaml --gpu a100-40g --gpus-per-node 4 --nodes 2
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sft.terminal import Style

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_file", metavar="RUN.yaml", type=Path, help="the run file; then --key value overrides"
    )
    parser.add_argument(
        "--gpu",
        default="auto",
        help="the GPU that it will run on: h100-80g, a100-40g, ..., or its memory as 24GiB [auto: this machine's]",
    )
    parser.add_argument("--gpus-per-node", type=int, metavar="N", help="GPUs on each machine")
    parser.add_argument("--nodes", type=int, metavar="N", help="machines")
    parser.add_argument("--json", action="store_true", help="print the plan and its bill as JSON")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    import os

    from sft.check.planned import plan_run
    from sft.cli.refusal import told_as_json
    from sft.config.loader import load_run
    from sft.errors import ExitCode
    from sft.terminal import show

    words = [*extra]
    for name in ("gpus_per_node", "nodes"):
        asked = getattr(arguments, name)
        if asked is not None:
            words += [f"--{name}", str(asked)]
    with told_as_json(arguments.json):
        loaded = load_run(arguments.run_file, words)
        planned = plan_run(loaded, arguments.gpu, {**os.environ, **loaded.config.kit.env})
    if arguments.json:
        print(json.dumps(planned.to_json(), indent=2))
    else:
        for line in planned.lines():
            style: Style = (
                "green" if line.endswith(": fits") else "bold red" if line.endswith(": does not fit") else ""
            )
            show([line], sys.stdout, style)
    if planned.fits:
        return 0
    told = [way.line() for way in planned.ways]
    nothing = "nothing that the kit knows: larger GPUs, or a smaller model"
    show(["it does not fit; what would make it fit:"], sys.stderr, "bold red")
    show([f"- {line}" for line in told or [nothing]], sys.stderr)
    return int(ExitCode.DOES_NOT_FIT)
