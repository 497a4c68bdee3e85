"""Push what waits in a run's outbox: `python -m sft.hub.deliver RUN_DIR` is the process beside training.

Runs in a process of its own, because an upload cannot be stopped from within: at its time limit, and
with its parent, the process simply ends. What it had not finished stays in the journal (sft.hub.upload has how
it arrives once all the same).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token

from sft.errors import ExitCode, Problem
from sft.events import EventLog
from sft.hub.client import Deadline, OutOfTimeError, TryAgainError, limited_client, with_retries
from sft.hub.journal import (
    OVERTAKEN,
    PushRequest,
    being_delivered,
    is_late,
    is_news,
    outbox_lock,
    overtaken,
    pending,
    settle,
    still_waits,
    sweep,
)
from sft.hub.problems import (
    again_seconds,
    busy_elsewhere,
    is_about_one_push,
    no_token,
    not_writable,
    offline,
    problem_of,
)
from sft.hub.report import Delivered, DeliveryReport, out_of_time
from sft.hub.select import has_own_folder
from sft.hub.settings import endpoint_from_environment, without_password
from sft.hub.snapshot import SnapshotGoneError
from sft.hub.upload import AlteredError, ConflictError, Uploader
from sft.parent import bind_to
from sft.rundir import RunDirectory

# The process may be inside a call that knows no deadline; this long after it, it is ended from outside.
_GRACE_SECONDS = 2.0
LOCK_POLL_SECONDS = 0.2


@dataclass
class _Delivery:
    """One delivery under way, and what it has to report."""

    run: RunDirectory
    deadline: Deadline
    token: str
    endpoint: str | None
    say: Callable[[str], None]
    tell_run: bool
    delivered: list[Delivered] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    problem: Problem | None = None
    again_seconds: float | None = None

    def push_all(self) -> None:
        """Push in order until nothing waits, or something is wrong that concerns all of it."""
        sweep(self.run)
        while True:
            waiting = [request for request in pending(self.run) if request.id not in self.refused]
            dropped = overtaken(waiting)
            for request in dropped:
                settle(self.run, request, "skipped", reason=OVERTAKEN)
            left = [request for request in waiting if request not in dropped]
            if not left:
                return
            with being_delivered(self.run, left[0]) as waits:
                if waits and not self._push_one(left[0]):
                    return

    def _push_one(self, request: PushRequest) -> bool:
        """Push one; returns whether to go on with the next."""
        if is_late(self.run, request) and not has_own_folder(request):
            return self._skip(request, f"a later push than that of {request.what} is there already")
        endpoint = self.endpoint or request.endpoint or constants.ENDPOINT
        self.say(f"pushing {request.what} to {request.repo} at {without_password(endpoint)}")
        uploader = Uploader(self.run, request, HfApi(endpoint=endpoint, token=self.token))
        try:
            repo, url = with_retries(uploader.bring, self.deadline, self.say)
            settle(self.run, request, "delivered", url=url)
        except (
            TryAgainError,
            AlteredError,
            ConflictError,
            SnapshotGoneError,
            OSError,  # the library's own, and the disk's
            ValueError,
        ) as error:
            if not still_waits(self.run, request):
                return True  # delivered or dropped by another process, where locks do not hold
            if isinstance(error, SnapshotGoneError):
                return self._skip(request, f"the files of {request.what} are not in the outbox any more")
            self.refused.add(request.id)
            if self.problem is None:
                self.problem = problem_of(error, request, self.run, endpoint=endpoint, token=self.token)
                self.again_seconds = again_seconds(error)
            return is_about_one_push(error)
        self.delivered.append(Delivered(what=request.what, repo=repo, url=url))
        if self.tell_run:
            done = f"{request.what} to {repo}"
            EventLog(self.run.events_jsonl).write("push", state="done", what=done, url=url)
        return True

    def _skip(self, request: PushRequest, reason: str) -> bool:
        settle(self.run, request, "skipped", reason=reason)
        text = f"not pushed: {reason}"
        self.notes.append(text)
        if self.tell_run and is_news(self.run, text):
            EventLog(self.run.events_jsonl).write("note", text=text)
        return True


def deliver(
    run: RunDirectory,
    *,
    timeout_seconds: float | None = None,
    wait_for_others: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    tell_run: bool = True,
) -> DeliveryReport:
    """Push what waits, in order, and report; whatever the Hub does, nothing is raised for it.

    Without `token` and `endpoint` they come from the environment, or the login, or the request itself.
    `say` is told what is under way; `tell_run` has the run's events told too, which must not be done from another
    node than that of a live run: over NFS two nodes cannot append to one file. The time limit holds between requests and within each; only
    `background.finish_delivery` can also end a call of the library that knows no limit.
    """
    token = token or get_token()
    if not pending(run):
        return DeliveryReport()
    if constants.is_offline_mode():
        return _report(run, offline(run), tell_run=tell_run)
    if token is None:
        return _report(run, no_token(run), tell_run=tell_run)
    deadline = Deadline.after(timeout_seconds)
    delivery = _Delivery(run, deadline, token, endpoint or endpoint_from_environment(), say, tell_run)
    try:
        # Asked for while the lock was being let go of, a push would wait for the next one: so look again.
        while delivery.problem is None and pending(run):
            with outbox_lock(run) as held:
                if held:
                    with limited_client(deadline):
                        delivery.push_all()
            if not held and not wait_for_others:
                return DeliveryReport(
                    waiting=_waiting(run), problem=busy_elsewhere(run), again_seconds=LOCK_POLL_SECONDS
                )
            if not held:
                time.sleep(deadline.left(LOCK_POLL_SECONDS))
    except OSError as error:  # a full disk; what the Hub does is told apart above
        delivery.problem = delivery.problem or not_writable(run, error)
    except OutOfTimeError:
        delivery.problem = delivery.problem or out_of_time(run, timeout_seconds or 0.0)
    return _report(run, delivery.problem, delivery, tell_run=tell_run)


def _report(
    run: RunDirectory, problem: Problem | None, delivery: _Delivery | None = None, *, tell_run: bool = True
) -> DeliveryReport:
    with contextlib.suppress(OSError):
        if tell_run and problem is not None and is_news(run, problem.what):
            EventLog(run.events_jsonl).write("push", state="failed", what=str(problem))
    return DeliveryReport(
        delivered=tuple(delivery.delivered) if delivery else (),
        notes=tuple(delivery.notes) if delivery else (),
        waiting=_waiting(run),
        problem=problem,
        again_seconds=delivery.again_seconds if delivery else None,
    )


def _waiting(run: RunDirectory) -> tuple[str, ...]:
    return tuple(request.what for request in pending(run))


def _end_at(run: RunDirectory, seconds: float) -> None:
    """Report and leave at the time limit, whatever the upload is doing."""
    report = _report(run, out_of_time(run, seconds))
    for line in report.lines():
        _log(line)
    print(report.to_json(), flush=True)
    os._exit(ExitCode.ENVIRONMENT)


def _log(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Deliver; people read stderr (the push log), the waiting process reads the report on stdout."""
    parser = argparse.ArgumentParser(prog="python -m sft.hub.deliver", description=main.__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--timeout", type=float, metavar="SECONDS")
    parser.add_argument("--wait-for-others", action="store_true")
    parser.add_argument("--parent", type=int, metavar="PID", help="end with this process")
    arguments = parser.parse_args()
    if arguments.parent is not None:
        bind_to(arguments.parent)
    os.nice(10)
    run = RunDirectory(arguments.run_dir)
    if arguments.timeout is not None:
        limit = arguments.timeout
        timer = threading.Timer(limit + _GRACE_SECONDS, _end_at, (run, limit))
        timer.daemon = True
        timer.start()
    report = deliver(
        run, timeout_seconds=arguments.timeout, wait_for_others=arguments.wait_for_others, say=_log
    )
    for line in report.lines():
        _log(line)
    print(report.to_json(), flush=True)
    return ExitCode.ENVIRONMENT if report.problem else ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
