"""DataLoader workers that no signal ends but their rank's."""

from __future__ import annotations

import signal
import subprocess
import time

import psutil
import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from sft.training.workers import guarded

SIGNALS = ("TERM", "INT", "USR1", "HUP", "TERM")


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("spawn", "forkserver")]


@pytest.mark.parametrize("method", [None, "fork", *SLOW])
def test_signals_from_elsewhere_leave_workers_at_work(method: str | None) -> None:
    loader = DataLoader(range(400), num_workers=2, batch_size=2, multiprocessing_context=method)  # type: ignore[arg-type]
    batches = skip_first_batches(guarded(prepare_data_loader(loader, put_on_device=False)), 50)
    rest = iter(batches)
    first = next(rest)
    workers = _workers()
    print(method, workers)
    assert len(workers) == 2
    for pid in workers:
        for name in SIGNALS:
            subprocess.run(["sh", "-c", f"kill -{name} {pid}"], check=True)
    time.sleep(0.2)
    assert [first.tolist(), *(batch.tolist() for batch in rest)] == [
        [at, at + 1] for at in range(100, 400, 2)
    ]


def test_a_worker_that_its_rank_ends_is_ended() -> None:
    loader = guarded(DataLoader(range(400), num_workers=1))  # type: ignore[arg-type]
    iterator = iter(loader)
    next(iterator)
    [worker] = iterator._workers
    worker.terminate()
    worker.join(5)
    assert worker.exitcode in (0, -signal.SIGTERM)
    iterator._shutdown = True


def test_a_loader_without_workers_is_left_alone() -> None:
    loader = DataLoader(range(4))  # type: ignore[arg-type]
    assert guarded(loader).multiprocessing_context is None


def _workers() -> list[int]:
    """List the processes that call themselves data workers, as torch has them do."""
    below = psutil.Process().children(recursive=True)
    return [process.pid for process in below if process.name() == "pt_data_worker"]
