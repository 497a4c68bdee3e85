"""Say where a run stands: its place in the queue, step, loss, time left, last checkpoint, what waits to be pushed.

RUN is the output_dir of a run, or its run file. Without it, every run below this directory is told of.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", nargs="?", type=Path, help="output_dir, or RUN.yaml")
    parser.add_argument("--json", action="store_true", help="as one JSON object a line")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    import json

    from sft.launch.named import named_run
    from sft.launch.status import find_runs, status_of

    runs = [named_run(arguments.run)] if arguments.run else find_runs(Path.cwd())
    if not runs:
        print(f"there is no run below {Path.cwd()}", file=sys.stderr)
    for directory in runs:
        status = status_of(directory)
        print(json.dumps(status.to_json()) if arguments.json else "\n".join(status.lines()))
    return 0
