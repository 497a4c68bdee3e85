"""Follow a run live: its place in the queue, then its progress, until it is over. Ctrl-C ends the watching, not the run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="output_dir, or RUN.yaml")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    import sys

    from sft.launch.follow import follow
    from sft.launch.named import named_run

    return follow(named_run(arguments.run), sys.stderr)
