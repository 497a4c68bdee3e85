"""The user's wish to stop, as signals bring it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from sft.rundir import RunDirectory

STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
"""The default of `launch.stop_signals`."""
# The terminal has gone: whatever the run file says, what it leaves must not be a run without a supervisor.
ALWAYS = ("SIGHUP",)
# Wrappers pass a Ctrl-C on that the terminal has sent to everyone already: one wish, two signals.
ONE_WISH_SECONDS = 0.3


class StopNow(KeyboardInterrupt):
    """A stop was asked for where there is nothing to wait for."""


class StopRequests:
    """Note stop signals for the length of a `with` block, in the main thread.

    The first of any kind asks for a stop in order. Only Ctrl-C again (SIGINT) asks for a stop at once:
    schedulers repeat SIGTERM, and follow SIGUSR1 with it, while the run is still saving. A signal that was
    ignored before (SIGHUP under nohup) stays ignored.

    Attributes:
        first: the signal that asked for the stop, if any has.
        at_once: whether the stop is to be at once.
    """

    def __init__(self, names: Sequence[str] = STOP_SIGNALS) -> None:
        self.signals = [signal.Signals[name] for name in dict.fromkeys((*names, *ALWAYS))]
        self.first: signal.Signals | None = None
        self.at_once = False
        self._first_time = 0.0
        self._raises = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        for number in self.signals:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise StopNow in the block as soon as a stop is wished for, and at its begin if one was.

        For work that can be broken off anywhere and done again. What fails in the block after the wish failed
        of it: its processes had the signal too.
        """
        self._raises = True
        try:
            if self.first is not None:
                raise StopNow
            yield
        except Exception as error:
            if self.first is not None:
                raise StopNow from error
            raise
        finally:
            self._raises = False

    def hear(self, number: signal.Signals) -> None:
        """Take a signal that another process of the run had for a wish to stop, unless there was one."""
        if self.first is None:
            self.first, self._first_time = number, time.monotonic()

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Only notes: what is done about it, the loop does, where it can be interrupted safely.
        if self.first is None:
            self.hear(signal.Signals(number))
        elif number == signal.SIGINT and time.monotonic() - self._first_time > ONE_WISH_SECONDS:
            self.at_once = True
        else:
            return
        if self._raises:
            raise StopNow


def write_stop_file(run: RunDirectory, reason: str) -> None:
    """Ask the ranks to stop, and say why. An empty file, as a user leaves with `touch`, asks as well."""
    run.stop_file.write_text(reason, encoding="utf-8")
