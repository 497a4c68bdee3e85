"""Deliver the events of a run to a view: once, or for as long as the run goes on.

Any number of sessions may follow one another, on any machines that see the run directory; each delivers
what is not there yet. A lock keeps two from writing to one view at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator

from sft.errors import ExitCode, UserError
from sft.events import EventFollower
from sft.report.history import History, row_of
from sft.report.network import wandb_offline
from sft.report.settings import require
from sft.report.trackers import TITLES, TRACKERS, Tracker, ViewedRun, refusals
from sft.rundir import RunDirectory

POLL_SECONDS = 1.0
# What a file system without flock answers, Lustre for one; there two sessions are not kept apart.
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Busy(Exception):
    """Another process delivers to this view now; the text says which."""


def sync(run: RunDirectory, view: str | None, *, watch: bool) -> str:
    """Replay a run's events into a view and return where it can be seen.

    Args:
        run: a run directory, of a run that is over or goes on.
        view: wandb, tensorboard or trackio; None: W&B, unless the run reports to others only.
        watch: follow a run that goes on until it finishes or fails.
    Raises:
        UserError: no run there, no library, no key, no network, or the server refuses.
    """
    history = History(EventFollower(run.events_jsonl).poll())
    if history.settings is None:
        raise UserError(
            "there are no events of a run here",
            str(run.events_jsonl),
            "give the output_dir of a run that was started with `sft launch`",
        )
    views = history.settings.views
    view = view or ("wandb" if "wandb" in views or not views else views[0])
    require(view)
    if view == "wandb":
        offline = wandb_offline(os.environ, history.settings.wandb.get("base_url"))
        if offline:
            raise UserError(
                f"W&B cannot be reached: {offline.reason}",
                str(run.events_jsonl),
                f"{offline.fix}, then: {sync_command(run, view)}",
                exit_code=ExitCode.ENVIRONMENT,
            )
    try:
        # trackio talks on stdout, which belongs to the one line that the caller prints.
        with claimed(run, view), contextlib.redirect_stdout(sys.stderr):
            tracker = TRACKERS[view]()
            deliver(tracker, run, live=False, watch=watch)
            return tracker.location
    except Busy as busy:
        raise UserError(
            f"{TITLES[view]} gets this run already, from {busy}",
            str(run.output_dir),
            "wait for it to end, or stop it",
            exit_code=ExitCode.ENVIRONMENT,
        ) from busy
    except refusals(view) as error:
        raise UserError(
            f"{TITLES[view]} did not take the run: {first_line(error)}",
            str(run.events_jsonl),
            f"once that is mended: {sync_command(run, view)}",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error


def deliver(tracker: Tracker, run: RunDirectory, *, live: bool, watch: bool) -> None:
    """Open the view, replay what has happened and, when watching, follow what happens.

    Args:
        live: this process stands beside the training; it leaves at any end of the launch. Otherwise
            watching goes on over a stop, since a stopped run is resumed.
    """
    follower = EventFollower(run.events_jsonl)
    history = History(follower.poll())
    assert history.settings is not None
    assert history.run_id is not None
    tracker.start(
        ViewedRun(
            directory=run,
            run_id=history.run_id,
            settings=history.settings,
            config=history.config,
            live=live,
        )
    )
    rows = history.rows
    if not watch and history.end is None and rows and is_live(run):
        # More may come for the last step, an evaluation say, and W&B could not add it later.
        rows = rows[:-1]
    for row in rows:
        tracker.log(row)
    while watch and not _over(history, live=live):
        time.sleep(POLL_SECONDS)
        for event in follower.poll():
            history.add(event)
            if event["event"] == "start":
                tracker.rewind(int(event["step"]))
            elif (row_or_none := row_of(event)) is not None:
                tracker.log(row_or_none)
    tracker.finish(_exit_code(run, history))


def _over(history: History, *, live: bool) -> bool:
    return history.end is not None and (live or history.end["status"] in ("finished", "failed"))


def _exit_code(run: RunDirectory, history: History) -> int:
    if history.end is not None:
        return int(history.end["exit_code"])
    return ExitCode.DONE if is_live(run) else ExitCode.WORKER_LOST


def is_live(run: RunDirectory) -> bool:
    """Say whether a launch holds the run directory's lock."""
    try:
        with run.lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        # No flock on this file system: the run then counts as over, which holds nothing back.
        return False
    return False


@contextlib.contextmanager
def claimed(run: RunDirectory, view: str) -> Iterator[None]:
    """Hold a view of a run for this process.

    Raises:
        Busy: another process holds it.
    """
    run.kit.mkdir(parents=True, exist_ok=True)
    path = run.kit / f"view-{view}.lock"
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Busy(lock.read().strip() or "another process") from None
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


def sync_command(run: RunDirectory, view: str) -> str:
    """Return the line that delivers a run later."""
    to = "" if view == "wandb" else f" --to {view}"
    return f"sft sync {shlex.quote(str(run.output_dir))}{to}"


def first_line(error: BaseException) -> str:
    """Return an error's first line, or its kind where it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
