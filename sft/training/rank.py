"""The life of one rank as the supervisor sees it: it dies with its parent, has its own log, and says how it ended."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Self

from sft.errors import ExitCode, Problem, UserError
from sft.files import write_whole
from sft.parent import die_with_parent
from sft.rundir import BEFORE_TRAINING, RunDirectory
from sft.training.failure import explain

STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
# Asks for the Python stacks of every thread. Answered in C, so that a rank that waits in a collective does it too.
STACKS_SIGNAL = signal.SIGUSR2
# Between two writes of a rank's state, where only its step has changed.
STATE_SECONDS = 1.0


class Rank:
    """Context of one rank's whole life. Signals only set a flag, which the ranks agree on between steps."""

    def __init__(self, run: RunDirectory, stop_signals: Sequence[str] = STOP_SIGNALS) -> None:
        self.run = run
        self._stop_signals = [signal.Signals[name] for name in stop_signals]
        self.index = int(os.environ.get("RANK", "0"))
        self.supervised = os.environ.get("SFT_SUPERVISED") == "1"
        self.stop_signal: signal.Signals | None = None
        self._state: dict[str, object] = {
            "rank": self.index,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "phase": "start",
            "since": time.monotonic(),
        }
        self._writing = threading.Lock()
        self._came_further = threading.Event()
        self._has_ended = threading.Event()

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes what there is one of."""
        return self.index == 0

    def __enter__(self) -> Self:
        die_with_parent()
        if self.supervised:
            self._own_log()
        heard = [number for number in self._stop_signals if number != STACKS_SIGNAL]
        for number in heard:
            signal.signal(number, self._request_stop)
        self._hand_out_stacks()
        # The supervisor has held them back until here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*heard, STACKS_SIGNAL])
        self._write(status="running")
        threading.Thread(target=self._tell_steps, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Record how the rank ended. A UserError is printed without a traceback and leaves with its own code."""
        self._has_ended.set()
        self._put_stacks_away()
        if error is None:
            self._write(status="done")
            return False
        code, problem = explain(error)
        # What this rank works with had the signal too: a pool that prepares data, a download.
        if self.stop_signal and self._state["phase"] in BEFORE_TRAINING and not isinstance(error, UserError):
            what = f"stopped by {self.stop_signal.name} before the training began: nothing is lost"
            code, problem = ExitCode.STOPPED, Problem(what)
        with contextlib.suppress(OSError):  # a disk that takes nothing: the code alone has to tell
            self._write(
                status="failed",
                exit_code=int(code),
                time=time.time(),
                what=problem.what,
                where=self._place(problem.where),
                fix=problem.fix,
            )
        with contextlib.suppress(OSError):  # the log may lie there too
            if isinstance(error, UserError):
                print(error, file=sys.stderr, flush=True)
                if error.__cause__ is not None and self.supervised:
                    traceback.print_exception(error.__cause__)
            else:
                traceback.print_exception(error)
            sys.stderr.flush()
        # A process group that lost a member blocks the interpreter's orderly end; there is nothing left to save.
        os._exit(int(code))

    def phase(self, name: str) -> None:
        """Say what this rank is doing."""
        self._write(status="running", phase=name, since=time.monotonic())

    def step(self, number: int | None = None) -> None:
        """Say that this rank has come further, and how many steps it has done. Writes nothing itself."""
        if number is not None:
            self._state["step"] = number
        self._state["since"] = time.monotonic()
        self._came_further.set()

    def _tell_steps(self) -> None:
        """Write the state after steps, at most once a second, on a thread: a step waits for no file system."""
        while not self._has_ended.wait(STATE_SECONDS):
            self._came_further.wait()
            self._came_further.clear()
            with (
                self._writing,
                contextlib.suppress(OSError),
            ):  # a disk that fails is told by what must be kept
                if not self._has_ended.is_set():
                    self._put()

    def _place(self, where: str | None) -> str | None:
        """Say where a key was set in the user's own file; the ranks read the resolved one."""
        path = self.run.sources_json
        if not self.supervised or where is None or not path.exists():
            return where
        sources: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return f"{where} ({sources[where]})" if where in sources else where

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._state["pid"]:
            self.stop_signal = self.stop_signal or signal.Signals(number)
        elif number == signal.SIGTERM:
            # A forked child has this handler too. A pool ends its workers with SIGTERM, and would wait for
            # ever; DataLoader workers have torch's own handler.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _own_log(self) -> None:
        path = self.run.rank_log(self.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)

    def _hand_out_stacks(self) -> None:
        """Have the supervisor's signal answered with this rank's stacks."""
        path = self.run.rank_stacks(self.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Open for the rank's whole life: the answer can open nothing.
        self._stacks = path.open("a")
        faulthandler.register(STACKS_SIGNAL, file=self._stacks, all_threads=True)

    def _put_stacks_away(self) -> None:
        path = self.run.rank_stacks(self.index)
        with contextlib.suppress(OSError):  # not empty, or another rank's files beside it
            if path.stat().st_size == 0:
                path.unlink()
                path.parent.rmdir()

    def _write(self, **changes: object) -> None:
        with self._writing:
            self._state.update(changes)
            self._put()

    def _put(self) -> None:
        path = self.run.rank_state(self.index)
        try:
            write_whole(path, json.dumps(dict(self._state)) + "\n")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not path.exists():
                raise
            # A full disk is no hang: the time of the file tells the supervisor as much.
            os.utime(path)
