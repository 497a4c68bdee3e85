"""`sft sync`: deliver a run's events to W&B, TensorBoard or trackio."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `sft sync`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's output_dir")
    parser.add_argument(
        "--to",
        choices=["wandb", "tensorboard", "trackio"],
        help="where to (default: W&B, unless the run reports to others only)",
    )
    parser.add_argument("--watch", action="store_true", help="follow a run that goes on, to its end")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    """Deliver, and print where the run can be seen."""
    from sft.errors import ExitCode
    from sft.report.sync import sync
    from sft.rundir import RunDirectory

    try:
        print(sync(RunDirectory(arguments.run), arguments.to, watch=arguments.watch))
    except KeyboardInterrupt:
        print("Stopped. What was delivered stays; the same command delivers the rest.", file=sys.stderr)
        return ExitCode.STOPPED
    return ExitCode.DONE
