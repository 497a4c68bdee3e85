"""Push what waits in a run's outbox: `python -m sft.hub.deliver RUN_DIR` is the process beside training.

Runs in a process of its own, because an upload cannot be stopped from within: at its time limit, and
with its parent, the process simply ends. What it had not finished stays in the journal, and an upload
that is repeated finds its files on the Hub and adds no second commit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from sft.errors import ExitCode, Problem
from sft.events import EventLog
from sft.hub.client import Deadline, OutOfTimeError, TryAgainError, limited_client, with_retries
from sft.hub.outbox import PushRequest, outbox_lock, overtaken, pending, settle, write_whole
from sft.hub.problems import busy_elsewhere, is_about_one_push, no_token, offline, problem_of
from sft.hub.report import Delivered, DeliveryReport, out_of_time
from sft.hub.select import NothingToPushError, Selection, checkpoint_folder, gone, select
from sft.hub.settings import endpoint_from_environment, without_password
from sft.parent import bind_to
from sft.rundir import RunDirectory

# The process may be inside a call that knows no deadline; this long after it, it is ended from outside.
_GRACE_SECONDS = 2.0
_LOCK_POLL_SECONDS = 0.2


@dataclass
class _Delivery:
    """One delivery under way, and what it has to report."""

    run: RunDirectory
    deadline: Deadline
    token: str
    endpoint: str | None
    say: Callable[[str], None]
    delivered: list[Delivered] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    problem: Problem | None = None

    def push_all(self) -> None:
        """Push in order until nothing waits, or something is wrong that concerns all of it."""
        while True:
            waiting = [request for request in pending(self.run) if request.name not in self.refused]
            dropped = overtaken(waiting)
            for request in dropped:
                settle(self.run, request, "skipped", reason="a later push brings the same files anew")
            left = [request for request in waiting if request not in dropped]
            if not left or not self._push_one(left[0]):
                return

    def _push_one(self, request: PushRequest) -> bool:
        """Push one; returns whether to go on with the next."""
        endpoint = self.endpoint or request.endpoint or constants.ENDPOINT
        try:
            selection = select(self.run, request)
            self.say(f"pushing {request.what} to {request.repo} at {without_password(endpoint)}")
            repo, url = with_retries(
                lambda: self._upload(request, selection, endpoint), self.deadline, self.say
            )
        except NothingToPushError as error:
            return self._skip(request, str(error))
        except (TryAgainError, OSError, ValueError) as error:  # OSError: the library's own, and the disk's
            if not (self.run.output_dir / request.source).is_dir():
                return self._skip(request, gone(request))
            problem = problem_of(error, request, self.run, endpoint=endpoint, token=self.token)
            self.problem = self.problem or problem
            self.refused.add(request.name)
            return is_about_one_push(error)
        settle(self.run, request, "delivered", url=url)
        self.delivered.append(Delivered(what=request.what, repo=repo, url=url))
        EventLog(self.run.events_jsonl).write("push", state="done", what=f"{request.what} to {repo}", url=url)
        if selection.note is not None:
            self._note(selection.note)
        return True

    def _upload(self, request: PushRequest, selection: Selection, endpoint: str) -> tuple[str, str]:
        """Make the repository and the branch where they are missing, and one commit with all files."""
        api = HfApi(endpoint=endpoint, token=self.token)
        repo = api.create_repo(request.repo, private=request.private, exist_ok=True).repo_id
        revision = request.revision or constants.DEFAULT_REVISION
        if revision != constants.DEFAULT_REVISION and not revision.startswith("refs/"):
            api.create_branch(repo, branch=revision, exist_ok=True)
        names = {upload.path_in_repo for upload in selection.uploads}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(upload.path_in_repo, upload.path) for upload in selection.uploads
        ]
        if checkpoint_folder(request) == "last-checkpoint":
            stale = _files_under(api, repo, revision, "last-checkpoint") - names
            operations += [CommitOperationDelete(name, is_folder=False) for name in sorted(stale)]
        message = "End of training" if request.kind == "end" else f"Training in progress, step {request.step}"
        commit = api.create_commit(repo, operations, commit_message=message, revision=revision)
        return repo, str(commit.commit_url)

    def _skip(self, request: PushRequest, reason: str) -> bool:
        settle(self.run, request, "skipped", reason=reason)
        self._note(f"not pushed: {reason}")
        return True

    def _note(self, text: str) -> None:
        self.notes.append(text)
        if _is_news(self.run, text):
            EventLog(self.run.events_jsonl).write("note", text=text)


def deliver(
    run: RunDirectory,
    *,
    timeout_seconds: float | None = None,
    wait_for_others: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> DeliveryReport:
    """Push what waits, in order, and report; whatever the Hub does, nothing is raised for it.

    Without `token` and `endpoint` they come from the environment, or the login, or the request itself.
    `say` is told what is under way. The time limit holds between requests and within each; only
    `background.finish_delivery` can also end a call of the library that knows no limit.
    """
    token = token or get_token()
    if not pending(run):
        return DeliveryReport()
    if constants.is_offline_mode():
        return _report(run, offline(run))
    if token is None:
        return _report(run, no_token(run))
    deadline = Deadline.after(timeout_seconds)
    delivery = _Delivery(run, deadline, token, endpoint or endpoint_from_environment(), say)
    try:
        # Asked for while the lock was being let go of, a push would wait for the next one: so look again.
        while delivery.problem is None and pending(run):
            with outbox_lock(run) as held:
                if held:
                    with limited_client(deadline):
                        delivery.push_all()
            if not held and not wait_for_others:
                return DeliveryReport(waiting=_waiting(run), problem=busy_elsewhere(run))
            if not held:
                time.sleep(deadline.left(_LOCK_POLL_SECONDS))
    except OutOfTimeError:
        delivery.problem = delivery.problem or out_of_time(run, timeout_seconds or 0.0)
    return _report(run, delivery.problem, delivery)


def _report(run: RunDirectory, problem: Problem | None, delivery: _Delivery | None = None) -> DeliveryReport:
    if problem is not None and _is_news(run, problem.what):
        EventLog(run.events_jsonl).write("push", state="failed", what=str(problem))
    return DeliveryReport(
        delivered=tuple(delivery.delivered) if delivery else (),
        notes=tuple(delivery.notes) if delivery else (),
        waiting=_waiting(run),
        problem=problem,
    )


def _waiting(run: RunDirectory) -> tuple[str, ...]:
    return tuple(request.what for request in pending(run))


def _files_under(api: HfApi, repo: str, revision: str, folder: str) -> set[str]:
    """List the files of a folder of the repository; none where there is no such folder."""
    try:
        tree = list(api.list_repo_tree(repo, folder, recursive=True, revision=revision))
    except EntryNotFoundError:
        return set()
    return {entry.path for entry in tree if isinstance(entry, RepoFile)}


def _is_news(run: RunDirectory, text: str) -> bool:
    """Whether the run's events do not have this about the Hub yet; from now on they do."""
    said = run.outbox / "said.json"
    known = json.loads(said.read_text(encoding="utf-8")) if said.exists() else []
    if text in known:
        return False
    write_whole(said, json.dumps([*known, text]))
    return True


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
