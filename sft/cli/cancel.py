"""Stop a run: it saves a checkpoint first, and goes on when it is launched again. A job that waits leaves the queue.

With --now it saves nothing: what was trained since the last checkpoint is lost.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="output_dir, or RUN.yaml")
    parser.add_argument("--now", action="store_true", help="do not wait for a checkpoint")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    import sys

    from sft.launch.cancel import cancel
    from sft.launch.named import named_run

    for line in cancel(named_run(arguments.run), now=arguments.now):
        print(line, file=sys.stderr)
    return 0
