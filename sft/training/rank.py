"""The life of one rank as the supervisor sees it: it dies with its parent, has its own log, and says how it ended."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from sft.errors import ExitCode, Problem, UserError
from sft.parent import die_with_parent
from sft.rundir import RunDirectory

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LOST_CONNECTION = re.compile(
    r"connection (closed|reset|refused)|broken pipe|gloo|nccl|socket timeout|remote process", re.IGNORECASE
)


class Rank:
    """Context of one rank's whole life. Signals only set a flag, which the ranks agree on between steps."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.index = int(os.environ.get("RANK", "0"))
        self.supervised = os.environ.get("SFT_SUPERVISED") == "1"
        self.stop_requested = False
        self._state = {"rank": self.index, "pid": os.getpid(), "host": socket.gethostname(), "phase": "start"}

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes what there is one of."""
        return self.index == 0

    def __enter__(self) -> Self:
        die_with_parent()
        if self.supervised:
            self._own_log()
        for number in STOP_SIGNALS:
            signal.signal(number, self._request_stop)
        self._write(status="running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Record how the rank ended. A UserError is printed without a traceback and leaves with its own code."""
        if error is None:
            self._write(status="done")
            return False
        code, problem = explain(error)
        self._write(
            status="failed",
            exit_code=int(code),
            time=time.time(),
            what=problem.what,
            where=self._place(problem.where),
            fix=problem.fix,
        )
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
        self._write(status="running", phase=name)

    def _place(self, where: str | None) -> str | None:
        """Say where a key was set in the user's own file; the ranks read the resolved one."""
        path = self.run.sources_json
        if not self.supervised or where is None or not path.exists():
            return where
        sources: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return f"{where} ({sources[where]})" if where in sources else where

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._state["pid"]:
            self.stop_requested = True
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

    def _write(self, **changes: object) -> None:
        self._state.update(changes)  # type: ignore[arg-type]
        path = self.run.rank_state(self.index)
        write_whole(path, json.dumps(self._state) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def explain(error: BaseException) -> tuple[ExitCode, Problem]:
    """Find the exit code of an error and what to tell of it."""
    if isinstance(error, UserError):
        return error.exit_code, error.problems[0]
    first = (str(error).strip().splitlines() or [""])[0]
    told = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        fix = "lower per_device_train_batch_size or max_length, or shard more (strategy: zero3)"
        return ExitCode.DOES_NOT_FIT, Problem(f"out of memory: {first}", None, fix)
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.STOPPED, Problem("interrupted", None, None)
    if isinstance(error, OSError) and error.errno == 28:
        return ExitCode.ENVIRONMENT, Problem("the disk is full", str(error.filename or ""), "free some space")
    if isinstance(error, (RuntimeError, ConnectionError)) and LOST_CONNECTION.search(str(error)):
        return ExitCode.WORKER_LOST, Problem(f"lost the connection to another rank: {first}", None, None)
    return ExitCode.BUG, Problem(told, None, None)
