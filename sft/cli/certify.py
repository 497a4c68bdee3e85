"""Show that a kill costs a run nothing: train a few steps, kill, resume, and compare with a run left alone.

RUN.yaml comes first; then any of its keys as `--key value`. Trains four short runs at most, in
<output_dir>/_sft/certify, and leaves a report there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_file", metavar="RUN.yaml", type=Path, help="the run file")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of each run (default: 6)")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    from sft.check.run import check_run
    from sft.errors import ExitCode
    from sft.launch.certify import certify

    checked = check_run(arguments.run_file, extra)
    certificate = certify(checked.loaded, steps=arguments.steps)
    for line in certificate.lines():
        print(line, file=sys.stderr)
    print(checked.loaded.config.run.kit / "certify" / "report.json")
    return ExitCode.DONE if certificate.holds else ExitCode.BUG
