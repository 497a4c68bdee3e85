"""DataLoader workers that a signal to every process of a run does not end.

A scheduler, or Ctrl-C in a terminal, signals the workers as well. torch lets SIGTERM end a worker where it is not
the rank that sent it, and the rank then fails of its lost worker in the middle of stopping in order.
"""

from __future__ import annotations

from multiprocessing.context import ForkContext, ForkProcess
from typing import Any

import torch.multiprocessing

from sft.parent import heed_only_parent, signals_blocked


class _Worker(ForkProcess):
    """Begins with the signals blocked, so that there is no moment at which one ends it."""

    def start(self) -> None:
        with signals_blocked():
            super().start()

    def run(self) -> None:
        heed_only_parent()
        super().run()


class _WorkerContext(ForkContext):
    Process = _Worker  # type: ignore[assignment]


def guarded(batches: Any) -> Any:
    """Have a DataLoader start its workers so; one without workers, or where they are not forked, is left alone."""
    if getattr(batches, "num_workers", 0) > 0 and torch.multiprocessing.get_start_method() == "fork":
        batches.multiprocessing_context = _WorkerContext()
    return batches
