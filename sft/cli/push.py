"""Deliver to the Hub what waits in a run's outbox.

With --repo, push the finished model to that repository, whether or not its run file asked for it.
The token comes from HF_TOKEN or `hf auth login`. The address of each commit goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sft.rundir import RunDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the output_dir of the run")
    parser.add_argument("--repo", metavar="NAME", help="push the finished model here: NAME or OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="with --repo: make it private where it is new")
    parser.add_argument("--revision", metavar="BRANCH", help="with --repo: the branch (default: main)")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when the library is imported

    from sft.errors import ExitCode, UserError
    from sft.hub.deliver import deliver
    from sft.rundir import RunDirectory

    run = RunDirectory(Path(arguments.run_dir))
    if not run.output_dir.is_dir():
        raise UserError(
            f"there is no run directory {run.output_dir}",
            fix="name the output_dir of a run, as its run file has it",
        )
    if arguments.repo is None and (arguments.private or arguments.revision):
        raise UserError(
            "--private and --revision belong to --repo: what waits has its own settings from the run file",
            fix=f"sft push {arguments.run_dir} --repo OWNER/NAME ...",
        )
    if arguments.repo is not None:
        _request(run, arguments)
    report = deliver(run, say=_say)
    for line in report.notes:
        _say(line)
    for delivered in report.delivered:
        _say(f"pushed {delivered.what} to {delivered.repo}")
        print(delivered.url)
    if report.problem is not None:
        raise UserError.of([report.problem], exit_code=ExitCode.ENVIRONMENT)
    if not report.delivered and not report.notes:
        _say(f"nothing waits to be pushed in {run.output_dir}; --repo NAME pushes the finished model")
    return ExitCode.DONE


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _request(run: RunDirectory, arguments: argparse.Namespace) -> None:
    """Journal a push of the finished model, as if the run file had asked for it."""
    from sft.errors import UserError
    from sft.hub.outbox import pending, request_push
    from sft.hub.select import has_weights, model_files
    from sft.hub.settings import HubSettings, endpoint_from_environment, settings_problems

    settings = HubSettings(
        repo=arguments.repo,
        private=arguments.private or None,
        strategy="end",
        revision=arguments.revision,
        endpoint=endpoint_from_environment(),
    )
    if problems := settings_problems(settings, run.output_dir):
        raise UserError.of(problems)
    if not has_weights(model_files(run.output_dir)):
        raise UserError(
            "there is no finished model to push",
            f"no *.safetensors in {run.output_dir}",
            "let the run finish, or name the output_dir of one that has",
        )
    # After anything that waits, so that the finished model is what stays at the root of the repository.
    steps = [request.step for request in pending(run)]
    if run.outcome_json.is_file():
        steps.append(int(json.loads(run.outcome_json.read_text(encoding="utf-8"))["step"]))
    request_push(run, settings, "end", max(steps, default=0))
