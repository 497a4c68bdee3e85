"""Show a live run: one small process a view, beside rank 0, that follows the events.

The training process never waits for a tracker, imports none and cannot be harmed by one: a server that is
slow, refuses or is gone costs at most FINISH_SECONDS at the end. What a view did not get is said once, in
a note, and `sft sync` delivers it. It is also how a restarted run brings earlier gaps up to date: each
session replays from the first event.

`python -m sft.report.live OUTPUT_DIR VIEW PARENT_PID` is such a process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from sft.events import EventFollower, EventLog
from sft.parent import bind_to
from sft.report.history import History
from sft.report.network import wandb_offline
from sft.report.sync import Busy, claimed, deliver, first_line, sync_command
from sft.report.trackers import TITLES, TRACKERS
from sft.rundir import RunDirectory

FINISH_SECONDS = 30.0
_COMMAND = (sys.executable, "-P", "-m", "sft.report.live")


class LiveViews:
    """The processes that show this launch. Only rank 0 makes one, after it wrote its start event.

    Call from the main thread: the processes die with the thread that started them.
    """

    def __init__(self, run: RunDirectory, views: Sequence[str]) -> None:
        self._run = run
        self._processes = {view: self._start(view) for view in views}

    def _start(self, view: str) -> subprocess.Popen[bytes]:
        self._run.logs.mkdir(parents=True, exist_ok=True)
        with (self._run.logs / f"view-{view}.log").open("ab") as log:
            return subprocess.Popen(
                [*_COMMAND, str(self._run.output_dir), view, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, limit_seconds: float = FINISH_SECONDS) -> None:
        """Let the views deliver what is left, after the end event; give up on those that take too long."""
        deadline = time.monotonic() + limit_seconds
        for view, process in self._processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                note(self._run, view, f"not everything was delivered within {limit_seconds:.0f} s")
        self._processes = {}


def note(run: RunDirectory, view: str, what: str) -> None:
    """Say once what a view did not get, and the line that delivers it."""
    place = ", where there is a network" if view == "wandb" else ""
    text = f"{TITLES[view]}: {what}. Later{place}: {sync_command(run, view)}"
    EventLog(run.events_jsonl).write("note", text=text)


def show(run: RunDirectory, view: str) -> None:
    """Follow the run until its launch ends. Whatever goes wrong becomes a note and a line in the log."""
    history = History(EventFollower(run.events_jsonl).poll())
    assert history.settings is not None
    if view == "wandb":
        offline = wandb_offline(os.environ, history.settings.wandb.get("base_url"))
        if offline:
            # Who disables W&B does not want to hear of it either.
            if offline.reason != "WANDB_MODE=disabled":
                note(run, view, f"offline ({offline.reason})")
            return
        for variable in ("WANDB_LOG_MODEL", "WANDB_WATCH"):
            if os.environ.get(variable, "false") not in ("false", ""):
                text = f"W&B: {variable} is not followed. Metrics go there; the model goes to the Hub (push_to_hub)."
                EventLog(run.events_jsonl).write("note", text=text)
    try:
        with claimed(run, view):
            deliver(TRACKERS[view](), run, live=True, watch=True)
    except Busy as busy:
        EventLog(run.events_jsonl).write("note", text=f"{TITLES[view]}: {busy} delivers this run already.")
    except Exception as error:
        traceback.print_exc()
        note(run, view, first_line(error).rstrip("."))


def main(arguments: Sequence[str]) -> None:
    """Run as the process beside rank 0."""
    output_dir, view, parent = arguments
    bind_to(int(parent))
    # A stop is the ranks' business: this process leaves after their end event, or with them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    show(RunDirectory(Path(output_dir)), view)


if __name__ == "__main__":
    main(sys.argv[1:])
