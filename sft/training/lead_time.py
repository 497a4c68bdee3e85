"""How long before a deadline a run has to stop, learned from its own steps and saves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

RECENT_STEPS = 20
"""Of so many steps the longest counts: batches differ, and other jobs share the file system and the network."""
MARGIN = 1.5
"""How much longer the next step and the next save may take than the longest that was seen."""
# Before the first save: what a slow shared file system takes, and the time to gather and settle.
GUESSED_BYTES_PER_SECOND = 200e6
GUESSED_SECONDS = 30.0
# The weight, its copy in full precision, and the two moments of Adam.
GUESSED_BYTES_PER_PARAMETER = 16
Clock = Callable[[], float]


def guessed_save_seconds(trainable_parameters: int) -> float:
    """Guess how long a save takes that has not been seen yet."""
    return GUESSED_SECONDS + trainable_parameters * GUESSED_BYTES_PER_PARAMETER / GUESSED_BYTES_PER_SECOND


def lead_seconds(*, step: float, saves: float, leave: float) -> float:
    """Return how long before the deadline a run that takes another step must stop at the latest.

    Args:
        step: the longest that a step takes, in seconds.
        saves: what the saves to come take together.
        leave: the time for everything after that.
    """
    return MARGIN * (step + saves) + leave


class StepTimes:
    """The times between the ends of steps, without what evaluations and saves take of them."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._began = clock()

    def begin(self) -> None:
        """Begin to count here: what was before is no part of a step."""
        self._began = self._clock()

    def end(self) -> None:
        """Count a step; the next one begins."""
        now = self._clock()
        self._recent.append(now - self._began)
        self._began = now

    @property
    def longest(self) -> float:
        """The longest of the recent ones; 0 before the first."""
        return max(self._recent, default=0.0)


class SaveTimes:
    """How long a save takes, and how much of the last one is still to come.

    Args:
        measured: the seconds from the standstill to a complete checkpoint, of the last save; None before the first.
        guess: what counts until then.
    """

    def __init__(
        self, measured: Callable[[], float | None], guess: float, clock: Clock = time.monotonic
    ) -> None:
        self._measured = measured
        self._guess = guess
        self._clock = clock
        self._last: float | None = None

    def begin(self) -> None:
        """Note that a save has begun, whose writing may go on in the background."""
        self._last = self._clock()

    def seconds(self, count: int = 1) -> float:
        """How long so many more saves take, with the wait for the one that may still be written.

        Until one was seen, the guess counts once: that one will say how long the next takes.
        """
        one = self._measured()
        if one is None:
            return self._guess if count else 0.0
        left = 0.0 if self._last is None else max(0.0, self._last + one - self._clock())
        return count * one + left
