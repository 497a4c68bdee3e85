"""The moment by which a run has to have left, and how it is handed from the supervisor to the ranks."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

AT_VARIABLE = "SFT_DEADLINE"
"""The deadline, in seconds since the epoch."""
SOURCE_VARIABLE = "SFT_DEADLINE_SOURCE"
"""Who set it."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment, and who set it.

    Attributes:
        due: on CLOCK_MONOTONIC, so that setting the clock does not move it.
    """

    due: float
    source: str

    @classmethod
    def at(cls, time_of_day: float, source: str) -> Deadline:
        """Take a moment in seconds since the epoch."""
        return cls(time.monotonic() + time_of_day - time.time(), source)

    @classmethod
    def handed(cls, environment: Mapping[str, str] = os.environ) -> Deadline | None:
        """Return the one that the supervisor handed over; None where there is none."""
        if not environment.get(AT_VARIABLE):
            return None
        return cls.at(float(environment[AT_VARIABLE]), environment.get(SOURCE_VARIABLE, AT_VARIABLE))

    @property
    def seconds_left(self) -> float:
        """How long it is until then; negative once it has passed."""
        return self.due - time.monotonic()

    @property
    def environment(self) -> dict[str, str]:
        """What hands it to processes that are started now: the time of day, by the clock as it stands."""
        return {AT_VARIABLE: f"{time.time() + self.seconds_left:.3f}", SOURCE_VARIABLE: self.source}

    @property
    def clock(self) -> str:
        """When it is, for people: with the date where that is not today's."""
        then = time.localtime(time.time() + self.seconds_left)
        is_today = then[:3] == time.localtime()[:3]
        return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", then)
