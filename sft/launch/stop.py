"""The user's wish to stop, as signals bring it."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# Wrappers pass a Ctrl-C on that the terminal has sent to everyone already: one wish, two signals.
ONE_WISH_SECONDS = 0.3


class StopRequests:
    """Note stop signals for the length of a `with` block, in the main thread.

    The first of any kind asks for a stop in order. Only Ctrl-C again (SIGINT) asks for a stop at once:
    schedulers repeat SIGTERM, and follow SIGUSR1 with it, while the run is still saving. A signal that was
    ignored before (SIGHUP under nohup) stays ignored.

    Attributes:
        first: the signal that asked for the stop, if any has.
        at_once: whether the stop is to be at once.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.at_once = False
        self._first_time = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Only notes: what is done about it, the loop does, where it can be interrupted safely.
        if self.first is None:
            self.first, self._first_time = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._first_time > ONE_WISH_SECONDS:
            self.at_once = True
