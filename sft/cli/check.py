"""Read a run file and tell every problem in it, without torch, a GPU or the network.

With --offline: prove that the run needs no network, in a process that reaches none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from sft.launch.on import names

    parser.add_argument(
        "run_file", metavar="RUN.yaml", type=Path, help="the run file; then --key value overrides"
    )
    parser.add_argument("--json", action="store_true", help="print settings, sources and plan as JSON")
    parser.add_argument(
        "--on",
        choices=("here", *names()),
        default="here",
        help="where it is to run, as `sft launch` takes it: GPUs as here, or as the run file asks for",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="prove that all that the run reads is here; what is not, sft fetch brings",
    )


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    import json
    import os

    from sft.check.disk import look_at_disk
    from sft.check.found import Found
    from sft.check.run import check_run, look_at_rows
    from sft.errors import ExitCode, UserError
    from sft.launch.caches import on_shared
    from sft.launch.platform import platform

    asked = None if arguments.on == "here" else platform(arguments.on)
    in_batch = asked is not None and asked.IS_ELSEWHERE
    in_batch = in_batch or (arguments.offline and _names_machines(arguments.run_file, extra))
    checked = check_run(arguments.run_file, extra, in_batch=in_batch)
    if asked is not None and (problems := list(asked.problems(checked.loaded, checked.plan))):
        raise UserError.of(problems)
    found = Found()
    if arguments.offline:
        from sft.check.offline import look

        found = look(arguments.run_file, extra)
    seen, advice = ([], []) if found.rows is not None else look_at_rows(checked.loaded)
    disk, problems = look_at_disk(checked.loaded, checked.plan, model=found.model, rows=found.rows)
    seen = [*seen, *(f"offline: {line}" for line in found.lines), *disk]
    # Elsewhere the nodes' own file systems count, and their launch says it.
    caches = [] if in_batch else on_shared({**os.environ, **checked.loaded.config.kit.env})
    warnings = [*checked.warnings, *advice, *caches]
    for line in [*checked.notes, *seen]:
        print(f"note: {line}", file=sys.stderr)
    if found.problems or problems:
        raise UserError.of([*found.problems, *problems], exit_code=ExitCode.ENVIRONMENT)
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


def _names_machines(path: Path, words: list[str]) -> bool:
    """Whether a run file says on which machines it runs: this one, a login node perhaps, need not be such a one."""
    from sft.config.loader import load_run

    launch = load_run(path, words).config.launch
    return launch.nodes > 1 or launch.gpus_per_node is not None or launch.num_processes is not None


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
