"""Read a run file and tell every problem in it, without torch, a GPU or the network.

With --offline: prove that the run needs no network, in a process that reaches none.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft.check.survey import Survey

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from sft.launch.on import names

    parser.add_argument(
        "run_file",
        metavar="RUN.yaml",
        type=Path,
        nargs="?",
        help="the run file; then --key value overrides",
    )
    parser.add_argument(
        "--json", action="store_true", help="print settings, sources, plan and findings as JSON"
    )
    parser.add_argument(
        "--list", action="store_true", help="name the checks, what each needs and what it costs"
    )
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
    parser.add_argument(
        "--deep",
        action="store_true",
        help="rehearse it too: two steps on a few layers of its model, saved, resumed; a minute of this machine's CPU",
    )


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    from sft.check.checks import named
    from sft.check.survey import survey
    from sft.cli.refusal import told_as_json
    from sft.errors import UserError
    from sft.launch.platform import platform
    from sft.terminal import show

    if arguments.list:
        for check in named():
            print(f"{check.NAME:<20}  needs {check.NEEDS:<13}  {check.COST}")
        return 0
    if arguments.run_file is None:
        raise UserError("no run file is named", "sft check", "sft check RUN.yaml")
    with told_as_json(arguments.json):
        in_batch = arguments.on != "here" and platform(arguments.on).IS_ELSEWHERE
        in_batch = in_batch or (arguments.offline and _names_machines(arguments.run_file, extra))
        found = survey(
            arguments.run_file,
            extra,
            checks=named(),
            in_batch=in_batch,
            on=arguments.on,
            offline=arguments.offline,
        )
    if arguments.deep:
        from sft.check.deep.rehearse import rehearsed

        found = rehearsed(found, lambda line: print(line, file=sys.stderr))
    if arguments.json:
        print(json.dumps(_document(found), indent=2))
    for finding in (*found.of("note"), *found.of("warning")):  # the gravest last, where a terminal shows it
        show(str(finding).splitlines(), sys.stderr, "dim" if finding.gravity == "note" else "yellow")
    plan = found.require_no_errors()
    if not arguments.json:
        for key, value in _flat(found.subject.config.settings()).items():
            print(f"{key}: {value}  ({found.subject.where(key)})")
        print("\n".join(plan.describe()))
    return 0


def _document(found: Survey) -> dict[str, Any]:
    plan = found.subject.plan
    return {
        "settings": found.subject.config.settings(),
        "sources": found.subject.loaded.sources,
        "plan": None if plan is None else json.loads(plan.to_json()),
        "findings": [
            {"check": finding.check, "gravity": finding.gravity, **dataclasses.asdict(finding.problem)}
            for finding in found.findings
        ],
    }


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
