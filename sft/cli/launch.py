"""Check, plan and train a run file on this machine.

RUN.yaml comes first; then any of its keys as `--key value`, which win over the file:

  sft launch run.yaml --learning_rate 2e-4 --packing --push_to_hub false

Where output_dir holds a checkpoint, the run continues from it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_file", metavar="RUN.yaml", type=Path, help="the run file")
    parser.add_argument(
        "--dry-run", action="store_true", help="write the configuration, print the command, and stop"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start anew; checkpoints that are there are moved aside, not deleted",
    )
    parser.add_argument(
        "--allow-changed",
        action="store_true",
        help="continue although the run file trains otherwise than before",
    )
    parser.add_argument(
        "--max-restarts",
        type=_count,
        default=0,
        metavar="N",
        help="start again up to N times, from the last checkpoint, after a worker or a connection was lost",
    )
    parser.add_argument("--strict", action="store_true", help="refuse the data if any row would be dropped")


def _count(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word} is no number of restarts")
    return int(word)


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    from sft.check.run import check_run
    from sft.launch.local import launch, prepare

    if arguments.strict:
        extra = [*extra, "--strict_data", "true"]
    checked = check_run(arguments.run_file, extra)
    for note in checked.notes:
        print(f"note: {note}", file=sys.stderr)
    for warning in checked.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for line in checked.plan.describe():
        print(line, file=sys.stderr)
    command = " ".join(["sft launch", str(arguments.run_file), *extra])
    if arguments.dry_run:
        print(prepare(checked.loaded, checked.plan, written_by=command).shell)
        return 0
    return launch(
        checked.loaded,
        checked.plan,
        written_by=command,
        fresh=arguments.fresh,
        allow_changed=arguments.allow_changed,
        max_restarts=arguments.max_restarts,
    )
