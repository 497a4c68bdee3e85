"""Deliver beside training: started at a save and not waited for; at the end waited for, with a limit."""

from __future__ import annotations

import os
import subprocess
import sys

from sft.errors import Problem
from sft.hub.journal import outbox_lock, pending
from sft.hub.report import DeliveryReport, out_of_time, push_command
from sft.rundir import RunDirectory

FINAL_PUSH_SECONDS = 600.0
# The child ends itself at its limit; this long after it, it is ended.
_GRACE_SECONDS = 10.0


def start_delivery(run: RunDirectory) -> subprocess.Popen[bytes] | None:
    """Start pushing what waits, and return at once; None where there is nothing, or it is under way.

    The process writes to `_sft/logs/push.log`, tells `events.jsonl` of its end, and dies with this one.
    """
    with outbox_lock(run) as is_free:
        if not is_free or not pending(run):
            return None
    run.logs.mkdir(parents=True, exist_ok=True)
    with (run.logs / "push.log").open("ab") as log:
        return subprocess.Popen(
            _command(run),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=_environment(),
            start_new_session=True,
        )


def finish_delivery(run: RunDirectory, *, timeout_seconds: float = FINAL_PUSH_SECONDS) -> DeliveryReport:
    """Push what waits and wait for it, for at most `timeout_seconds`; what is left stays in the outbox."""
    if not pending(run):
        return DeliveryReport()
    command = _command(run, "--wait-for-others", "--timeout", f"{timeout_seconds:g}")
    run.logs.mkdir(parents=True, exist_ok=True)
    with (run.logs / "push.log").open("ab") as log:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                timeout=timeout_seconds + _GRACE_SECONDS,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return _waiting(run, out_of_time(run, timeout_seconds))
    lines = done.stdout.decode().splitlines()
    if not lines:
        what = f"the process that pushes to the Hub ended with code {done.returncode}"
        return _waiting(run, Problem(what, str(run.logs / "push.log"), push_command(run)))
    return DeliveryReport.from_json(lines[-1])


def _waiting(run: RunDirectory, problem: Problem) -> DeliveryReport:
    return DeliveryReport(waiting=tuple(request.what for request in pending(run)), problem=problem)


def _command(run: RunDirectory, *options: str) -> list[str]:
    # -P: a user's own sft.py in the working directory must not be taken for the kit.
    script = [sys.executable, "-P", "-m", "sft.hub.deliver", str(run.output_dir.absolute())]
    return [*script, "--parent", str(os.getpid()), *options]


def _environment() -> dict[str, str]:
    """The environment without HF_DEBUG, which makes the library log whole requests."""
    kept = {name: value for name, value in os.environ.items() if name != "HF_DEBUG"}
    return kept | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
