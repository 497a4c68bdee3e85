"""Read a run file and tell every problem in it, without torch, a GPU or the network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_file", metavar="RUN.yaml", type=Path, help="the run file; then --key value overrides"
    )
    parser.add_argument("--json", action="store_true", help="print settings, sources and plan as JSON")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    import json

    from sft.check.run import check_run

    checked = check_run(arguments.run_file, extra)
    for line in checked.notes:
        print(f"note: {line}", file=sys.stderr)
    for warning in checked.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.json:
        document = {
            "settings": checked.loaded.config.settings(),
            "sources": checked.loaded.sources,
            "plan": json.loads(checked.plan.to_json()),
            "notes": list(checked.notes),
            "warnings": [str(problem) for problem in checked.warnings],
        }
        print(json.dumps(document, indent=2))
        return 0
    for key, value in checked.loaded.config.settings().items():
        for name, item in value.items() if key == "launch" else [(None, value)]:
            full = f"launch.{name}" if name else key
            print(f"{full}: {item}  ({checked.loaded.where(full)})")
    print("\n".join(checked.plan.describe()))
    return 0
