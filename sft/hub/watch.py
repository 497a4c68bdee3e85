"""Deliver for as long as a run goes on: what `sft push RUN --watch` does on a login node."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable

from huggingface_hub import constants, get_token

from sft.hub.deliver import deliver
from sft.hub.journal import pending
from sft.hub.problems import no_token, offline
from sft.hub.report import DeliveryReport
from sft.rundir import RunDirectory

POLL_SECONDS = 2.0
# A token may be mended or a repository made meanwhile; nobody wants to hear of it every few seconds.
MENDED_SECONDS = 300.0


def watch(
    run: RunDirectory, *, say: Callable[[str], None], show: Callable[[DeliveryReport], None]
) -> DeliveryReport:
    """Deliver what comes until the run has finished or failed and nothing waits. A stopped run may be resumed.

    The run may start later. `say` is told what is under way, `show` gets what each delivery did; the last one is
    returned: its problem is one that a person has to mend.
    """
    if constants.is_offline_mode():
        return DeliveryReport(problem=offline(run))
    if get_token() is None:
        return DeliveryReport(problem=no_token(run))
    said: str | None = None
    if not run.kit.is_dir():
        say(f"waiting for a run in {run.output_dir}")
    while True:
        # Before a look at the outbox: the last push is asked for before the outcome is written.
        over = _is_over(run)
        waiting = pending(run)
        report = DeliveryReport()
        if waiting:
            report = deliver(run, say=say, tell_run=run.outcome_json.exists())
            show(report)
        waiting = pending(run)
        if over and (not waiting or (report.problem is not None and report.again_seconds is None)):
            return report
        if report.problem is not None and str(report.problem) != said:
            said = str(report.problem)
            say(said)
        pause = POLL_SECONDS
        if report.problem is not None:
            pause = MENDED_SECONDS if report.again_seconds is None else report.again_seconds
        _wait(run, pause, {request.id for request in waiting}, over=over)


def _wait(run: RunDirectory, seconds: float, waiting: set[str], *, over: bool) -> None:
    """Wait so long, or until there is a new push or the run is over."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, POLL_SECONDS))
        if {request.id for request in pending(run)} - waiting or _is_over(run) != over:
            return


def _is_over(run: RunDirectory) -> bool:
    """Whether no more pushes will come. A launch takes the old outcome away when it starts."""
    try:
        status = json.loads(run.outcome_json.read_text(encoding="utf-8"))["status"]
    except FileNotFoundError:
        return False
    return status == "finished" or (status == "failed" and not _is_live(run))


def _is_live(run: RunDirectory) -> bool:
    """Whether a launch holds the run, which may restart it; where locks do not reach this node, none does."""
    try:
        with run.lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
