"""DataLoader workers that a signal to every process of a run does not end.

A scheduler, or Ctrl-C in a terminal, signals the workers as well. torch lets SIGTERM end a worker where it is not
the rank that sent it, and the rank then fails of its lost worker in the middle of stopping in order.
"""

from __future__ import annotations

from multiprocessing import get_start_method, parent_process
from multiprocessing.context import (
    BaseContext,
    ForkContext,
    ForkProcess,
    ForkServerContext,
    ForkServerProcess,
    SpawnContext,
    SpawnProcess,
)
from typing import Any

from sft.parent import heed_only_parent, signals_blocked


class _Guarded:
    """A process that begins with the signals held back, so that there is no moment at which one ends it."""

    def start(self) -> None:
        with signals_blocked():
            super().start()  # type: ignore[misc]

    def run(self) -> None:
        parent = parent_process()
        assert parent is not None
        assert parent.pid is not None
        heed_only_parent(parent.pid)
        super().run()  # type: ignore[misc]


class _Fork(_Guarded, ForkProcess):
    pass


class _Spawn(_Guarded, SpawnProcess):
    pass


class _ForkServer(_Guarded, ForkServerProcess):
    pass


class _ForkWorkers(ForkContext):
    Process = _Fork  # type: ignore[assignment]


class _SpawnWorkers(SpawnContext):
    Process = _Spawn  # type: ignore[assignment]


class _ForkServerWorkers(ForkServerContext):
    Process = _ForkServer  # type: ignore[assignment]


CONTEXTS: dict[str, type[BaseContext]] = {
    "fork": _ForkWorkers,
    "spawn": _SpawnWorkers,
    "forkserver": _ForkServerWorkers,
}


def guarded(batches: Any) -> Any:
    """Have a DataLoader start its workers so, by the method that it has; one without workers is left alone."""
    # accelerate's loaders hand on to the one within, and it starts the workers.
    loader = getattr(batches, "base_dataloader", batches)
    if getattr(loader, "num_workers", 0) > 0:
        chosen = loader.multiprocessing_context
        method = chosen.get_start_method() if chosen is not None else get_start_method()
        loader.multiprocessing_context = CONTEXTS[method]()
    return batches
