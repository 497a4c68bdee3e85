"""`sft launch` as the child of a step: signals pass on to it, and its exit code says whether a retry may help."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from types import FrameType

from sft.errors import ExitCode
from sft.launch.command import PACKAGE_ROOT
from sft.launch.process import start_bound
from sft.launch.restart import WHY_NOT

RELAYED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a launch ended.

    Attributes:
        code: as of subprocess.Popen: negative for a signal.
        signalled: whether the step was told to stop, by the platform or at the terminal.
    """

    code: int
    signalled: bool

    @property
    def may_be_retried(self) -> bool:
        """Whether another attempt, perhaps on another machine, may end otherwise.

        A stop that came as a signal to the step is the platform's, which takes the machine away; one by `_sft/stop` is
        somebody's wish.
        """
        if self.code == ExitCode.STOPPED:
            return self.signalled
        return self.code < 0 or self.code == ExitCode.WORKER_LOST

    @property
    def told(self) -> str:
        """Say how it ended and what follows, for people."""
        if self.code < 0:
            return f"sft launch was killed by {signal.Signals(-self.code).name}: a retry goes on from the last checkpoint"
        if self.may_be_retried:
            return f"sft launch ended with {self.code}: a retry goes on from the last checkpoint"
        why = WHY_NOT.get(self.code, f"exit code {self.code} is no lost worker")
        if self.code == ExitCode.STOPPED:
            why = "it was stopped on request; `resume` goes on from the last checkpoint"
        return f"sft launch ended with {self.code}, and is not retried: {why}"


def launch(run_file: Path, words: Sequence[str], environment: Mapping[str, str]) -> Ended:
    """Train a run file on all GPUs of this machine, and wait for its end. Call it from the main thread.

    The launch dies with this process; what it says goes to stderr.

    Args:
        words: flags, which win over the run file.
        environment: what is set besides what this process has.
    """
    path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "sft.cli.main", "launch", str(run_file), *words]
    print("$ " + " ".join(["sft", *command[4:]]), file=sys.stderr, flush=True)
    # Where this process's stderr leads, whatever Python has in its place.
    with _relayed() as relay, os.fdopen(os.dup(2), "wb") as said:
        child = start_bound(command, {**os.environ, **environment, "PYTHONPATH": path}, said)
        relay.to(child)
        while (code := child.poll()) is None:
            time.sleep(POLL_SECONDS)
    return Ended(code, relay.signalled)


class _Relay:
    def __init__(self) -> None:
        self._child: Popen[bytes] | None = None
        self._early: list[int] = []
        self.signalled = False

    def to(self, child: Popen[bytes]) -> None:
        self._child = child
        for number in self._early:
            child.send_signal(number)

    def hear(self, number: int, _: FrameType | None) -> None:
        self.signalled = True
        if self._child is None:
            self._early.append(number)
        else:
            self._child.send_signal(number)


@contextmanager
def _relayed() -> Iterator[_Relay]:
    relay = _Relay()
    before = {number: signal.signal(number, relay.hear) for number in RELAYED}
    try:
        yield relay
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
