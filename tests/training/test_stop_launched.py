"""Real launches that are stopped: by signals to anyone, by the stop file, by the clock, in every phase.

The whole matrix is in the slow tier; here are its ends.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.training.live import Live

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
Start = Callable[..., Live]


@pytest.fixture
def settings(tiny_model: Path, tiny_chats: Path) -> dict[str, Any]:
    return {
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tiny_chats),
        "use_peft": True,
        "use_cpu": True,
        "bf16": False,
        "max_steps": 100_000,
        "save_strategy": "no",
        "logging_steps": 1,
        "max_length": 64,
        "per_device_train_batch_size": 2,
        "launch": {"processes_per_node": 2, "strategy": "ddp"},
    }


@pytest.fixture
def start(tmp_path: Path, settings: dict[str, Any]) -> Iterator[Start]:
    started: list[Live] = []

    def begin(*words: str, name: str = "run", environment: dict[str, str] | None = None, **more: Any) -> Live:
        started.append(Live(tmp_path / name, settings | more, *words, environment=environment))
        return started[-1]

    yield begin
    for live in started:
        live.kill()


def saved_and_left(live: Live, code: int, *reasons: str) -> int:
    """A stop in order: 75, one checkpoint at the step that the outcome names, and why."""
    outcome = live.outcome()
    print(code, outcome, live.notes(), f"{time.monotonic() - live.began:.1f} s")
    assert code == 75, live.said()
    assert outcome.pop("reason") in reasons
    step = outcome.pop("step")
    assert outcome == {"status": "stopped", "exit_code": 75}
    assert live.checkpoints() == [step]
    assert live.tracebacks() == []
    return int(step)


def test_signals_to_every_process_leave_the_workers_and_stop_the_run_in_order(start: Start) -> None:
    """Two ranks with two data workers each; what scancel and a terminal send reaches all of them at once."""
    live = start(dataloader_num_workers=2)
    live.until_step(3)
    live.until(lambda: len(live.workers()) == 4)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        print(number.name, "to", live.signal_all(number), "processes")
    step = saved_and_left(live, live.end(), "SIGUSR1", "SIGTERM", "SIGINT")
    assert any(f"stopping after step {step}: " in note for note in live.notes())


@pytest.mark.slow
def test_a_run_leaves_before_the_end_of_its_job(start: Start) -> None:
    """The allocation ends in 90 s; the run has saved by then, and had learned how long a save takes."""
    ends = int(time.time()) + 90
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(ends)}
    live = start(
        environment=job,
        save_strategy="steps",
        save_steps=20,
        save_total_limit=1,
        launch={"processes_per_node": 1, "strategy": "single", "leave_seconds": 3},
    )
    step = saved_and_left(live, live.end(120), "the end of Slurm job 7")
    spare = ends - time.time()
    print(f"left {spare:.1f} s before the end, {step} steps")
    assert 0.0 < spare < 20.0
    # The supervisor ends them 5 s before; a fraction of a second is cut off.
    clocks = [time.strftime("%H:%M:%S", time.localtime(ends - early)) for early in (5, 6)]
    (promise,) = [note for note in live.notes() if "a kill" in note]
    assert promise in [
        f"stops by itself before {clock} (the end of Slurm job 7); a kill at any moment loses at most 20 steps"
        " (save_steps), or up to 40 while a checkpoint is still being written"
        for clock in clocks
    ]
    assert promise in live.said()


def slow_data(directory: Path, rows: int = 3000) -> dict[str, Any]:
    """A data set that takes half a minute to prepare."""
    (directory / "slow.py").write_text("import time\ndef row(row):\n    time.sleep(0.02)\n    return row\n")
    data = tiny.write_chats(directory / "many.jsonl", rows)
    return {"dataset_name": str(data), "dataset_mapping": f"{directory}/slow.py:row", "dataset_num_proc": 2}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_the_data_is_prepared_stops_before_the_training(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    live = start(environment={"SFT_CACHE": str(cache)}, **slow_data(tmp_path))
    live.until(lambda: list(cache.glob("prepared/.*")))
    live.until(lambda: len(live.family()) >= 3)
    live.signal_all(number)
    code = live.end(20)
    outcome = live.outcome()
    print(code, outcome, live.said().splitlines()[-1])
    assert code == 75
    assert outcome == {
        "status": "stopped",
        "exit_code": 75,
        "step": 0,
        "reason": number.name,
        "what": "stopped before the training began: nothing is lost",
    }
    assert live.said().splitlines()[-1] == outcome["what"]
    assert "Traceback" not in live.said()
    assert not [*cache.glob("prepared/*"), *cache.glob("prepared/.*")]
