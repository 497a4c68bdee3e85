"""Deliver to the Hub what waits in a run's outbox.

With --watch, go on until the run has finished or failed and nothing waits: on a login node, for a run
whose compute nodes have no network. With --repo, push the finished model to that repository, whether or
not its run file asked for it. Ctrl-C ends it with 75; nothing is lost, and the same command goes on. The token comes from HF_TOKEN or `hf auth login`. The address of each commit goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sft.hub.report import DeliveryReport
    from sft.rundir import RunDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the output_dir of the run")
    parser.add_argument(
        "--watch", action="store_true", help="follow the run, which may start later, to its end"
    )
    parser.add_argument("--repo", metavar="NAME", help="push the finished model here: NAME or OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="with --repo: make it private where it is new")
    parser.add_argument("--revision", metavar="BRANCH", help="with --repo: the branch (default: main)")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when the library is imported

    from sft.errors import ExitCode, UserError
    from sft.hub.deliver import deliver
    from sft.hub.watch import watch
    from sft.rundir import RunDirectory

    signal.signal(signal.SIGINT, _stop)
    run = RunDirectory(Path(arguments.run_dir))
    if not arguments.watch and not run.output_dir.is_dir():
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
    if arguments.watch:
        report = watch(run, say=_say, show=_show)
    else:
        report = deliver(run, say=_say, tell_run=run.outcome_json.exists())
        _show(report)
    if report.problem is not None:
        raise UserError.of([report.problem], exit_code=ExitCode.ENVIRONMENT)
    if not arguments.watch and not report.delivered and not report.notes:
        _say(f"nothing waits to be pushed in {run.output_dir}; --repo NAME pushes the finished model")
    return ExitCode.DONE


def _show(report: DeliveryReport) -> None:
    for line in report.notes:
        _say(line)
    for delivered in report.delivered:
        _say(f"pushed {delivered.what} to {delivered.repo}")
        print(delivered.url, flush=True)


def _stop(*_: object) -> None:
    """End at once: the library would wait for its upload threads, and the outbox bears any end."""
    from sft.errors import ExitCode

    _say("Stopped. What was delivered stays; the same command delivers the rest.")
    os._exit(ExitCode.STOPPED)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _request(run: RunDirectory, arguments: argparse.Namespace) -> None:
    """Journal a push of the finished model, as if the run file had asked for it."""
    from sft.errors import ExitCode, UserError
    from sft.hub.journal import pending
    from sft.hub.outbox import request_push
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
    if request_push(run, settings, "end", max(steps, default=0), say=_say) is None:
        raise UserError(
            "the push could not be journalled",
            str(run.outbox),
            "make room there, and see that it may be written",
            exit_code=ExitCode.ENVIRONMENT,
        )
