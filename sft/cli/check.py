"""Read a run file and tell every problem in it, without torch, a GPU or the network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_file", metavar="RUN.yaml", type=Path, help="the run file; then --key value overrides"
    )
    parser.add_argument("--json", action="store_true", help="print settings, sources and plan as JSON")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    import json

    from sft.check.run import check_run, look_at_rows

    checked = check_run(arguments.run_file, extra)
    seen, advice = look_at_rows(checked.loaded)
    warnings = [*checked.warnings, *advice]
    for line in [*checked.notes, *seen]:
        print(f"note: {line}", file=sys.stderr)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.json:
        document = {
            "settings": checked.loaded.config.settings(),
            "sources": checked.loaded.sources,
            "plan": json.loads(checked.plan.to_json()),
            "notes": [*checked.notes, *seen],
            "warnings": [str(problem) for problem in warnings],
        }
        print(json.dumps(document, indent=2))
        return 0
    for key, value in _flat(checked.loaded.config.settings()).items():
        print(f"{key}: {value}  ({checked.loaded.where(key)})")
    print("\n".join(checked.plan.describe()))
    return 0


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name the members of `launch:` and its groups as they are named where they were set."""
    from sft.config.yaml import HOLDERS

    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if prefix + key in HOLDERS:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
