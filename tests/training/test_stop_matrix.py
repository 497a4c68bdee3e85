"""Every signal, in every phase, to every kind of receiver: no hang, no orphan, nothing torn, the right exit code.

Over all, each signal meets each phase and each receiver (`pairs`, and `kills` for SIGKILL); SFT_WHOLE_MATRIX=1 runs every
triple.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sft.errors import ExitCode
from tests import tiny
from tests.training.live import SLOW, Live

pytestmark = pytest.mark.slow

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PHASES = ("start", "load", "train", "evaluate", "save", "export", "merge")
RECEIVERS = ("rank 0", "rank 1", "both ranks", "torchrun", "launcher", "everyone")
# There are no ranks before they have begun, nor in the merge, whose process takes their place.
WITHOUT_RANKS = ("start", "merge")


WHOLE = os.environ.get("SFT_WHOLE_MATRIX") == "1"


def places() -> Iterator[tuple[int, str, str]]:
    """List each phase with each receiver that there is in it, and a number to deal by."""
    for (row, phase), (column, receiver) in itertools.product(enumerate(PHASES), enumerate(RECEIVERS)):
        if phase in WITHOUT_RANKS and receiver in ("rank 0", "rank 1", "both ranks"):
            continue
        yield row + column, phase, "merge" if (phase, receiver) == ("merge", "torchrun") else receiver


def pairs() -> Iterator[Any]:
    """Deal the signals out so that each meets each phase and each receiver."""
    for place, phase, receiver in places():
        for number in SIGNALS if WHOLE else (SIGNALS[place % len(SIGNALS)],):
            yield pytest.param(phase, receiver, number, id=f"{phase}-{receiver}-{number.name}")


def kills() -> Iterator[Any]:
    """Deal out SIGKILL so that it meets each phase and each receiver; those that are dealt are continued too."""
    for place, phase, receiver in places():
        dealt = place % len(RECEIVERS) == 3
        if WHOLE or dealt:
            yield pytest.param(phase, receiver, dealt, id=f"{phase}-{receiver}")


@pytest.fixture
def settings(tiny_model: Path, tiny_chats: Path, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "slow.py").write_text(SLOW)
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
        "callbacks": [f"{tmp_path}/slow.py:Slow"],
        "launch": {"processes_per_node": 2, "strategy": "ddp"},
    }


FOR_PHASE: dict[str, dict[str, Any]] = {
    "evaluate": {"eval_strategy": "steps", "eval_steps": 3, "validation_fraction": 0.5, "per_device_eval_batch_size": 1},
    "save": {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 3, "background_save": False},
    "export": {"max_steps": 3, "merge": True},
    "merge": {"max_steps": 3, "merge": True},
}  # fmt: skip


def reach(live: Live, phase: str) -> None:
    """Wait until the launch is in a phase."""
    match phase:
        case "start":
            live.until(lambda: live.having("sft.training.train"))
        case "train":
            live.until_step(2)
        case "export":
            live.until(lambda: any(e["event"] == "log" and "train_loss" in e for e in live.new_events))
        case "merge":
            live.until_process("merge")
        case "save":
            live.until_step(2)
            live.until(lambda: any(state["phase"] == "save" for state in live.states().values()))
        case _:
            live.until(lambda: any(state["phase"] == phase for state in live.states().values()))


def send(live: Live, receiver: str, number: signal.Signals) -> None:
    match receiver:
        case "everyone":
            live.signal_all(number)
        case "launcher":
            live.process.send_signal(number)
        case "torchrun":
            # The launcher's only child: `accelerate launch`, which is torchrun inside.
            psutil.Process(live.process.pid).children()[0].send_signal(number)
        case "merge":
            live.having("merge")[0].send_signal(number)
        case "both ranks":
            for index in (0, 1):
                os.kill(live.rank(index), number)
        case _:
            os.kill(live.rank(int(receiver[-1])), number)


@pytest.mark.parametrize(("phase", "receiver", "number"), list(pairs()))
def test_a_signal_stops_a_run_in_any_phase(
    tmp_path: Path, settings: dict[str, Any], phase: str, receiver: str, number: signal.Signals
) -> None:
    live = Live(tmp_path / "run", settings | FOR_PHASE.get(phase, {}))
    try:
        reach(live, phase)
        send(live, receiver, number)
        code = live.end()
        outcome = live.outcome()
        print(f"{phase}, {number.name} to {receiver}: {code} {outcome} {live.notes()}")
        steps = live.checkpoints()
        if phase == "merge" and receiver == "merge" and number != signal.SIGTERM:
            assert code == 0, "it leaves those to the launcher"
            return
        # What torchrun is sent is seen once a second, and it may have ended by then.
        unheard = "rank" in receiver or (receiver == "torchrun" and code == 0)
        if phase == "export" and unheard:
            assert code == 0, "nothing was left to stop, and the launcher did not hear of it"
            assert (live.run.merged / "model.safetensors").exists()
            return
        assert code == 75, live.said()
        assert outcome["status"] == "stopped"
        assert live.tracebacks() == []
        if phase in ("train", "evaluate", "save"):
            assert outcome["reason"] == number.name
            assert steps[-1] == outcome["step"]
        if phase in ("export", "merge"):
            assert outcome["left"] == ["merge"]
            assert not live.run.merged.exists()
            assert not list(live.run.output_dir.glob(".merged*"))
            again = Live(tmp_path / "run", settings | FOR_PHASE[phase])
            assert again.end() == 0, again.said()
            assert again.outcome() == {"status": "finished", "exit_code": 0, "step": 3}
            assert "the training has ended: what is left: merge" in again.said()
            assert (again.run.merged / "model.safetensors").exists()
    finally:
        live.kill()


@pytest.mark.parametrize(("phase", "receiver", "continued"), list(kills()))
def test_a_run_that_is_killed_in_any_phase_leaves_nothing_behind_and_can_be_continued(
    tmp_path: Path, settings: dict[str, Any], phase: str, receiver: str, continued: bool
) -> None:
    settings = settings | FOR_PHASE.get(phase, {})
    live = Live(tmp_path / "run", settings)
    try:
        reach(live, phase)
        family = live.family()
        send(live, receiver, signal.SIGKILL)
        code = live.process.wait(60)
        print(f"{phase}, SIGKILL to {receiver}: {code}\n{live.said()}")
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive, f"these outlive it: {alive}"
        if receiver in ("launcher", "everyone"):
            assert code == -signal.SIGKILL
        else:
            assert code == ExitCode.WORKER_LOST, live.said()
            assert live.outcome()["exit_code"] == ExitCode.WORKER_LOST
            assert "killed by SIGKILL" in live.said()
        if phase == "merge":
            assert live.outcome()["left"] == ["merge"]
        live.checkpoints()
    finally:
        live.kill()
    if not continued:
        return
    again = Live(tmp_path / "run", settings)
    try:
        if phase in ("export", "merge"):
            assert again.end() == 0, again.said()
            assert (again.run.merged / "model.safetensors").exists()
        else:
            again.until_step(1)
    finally:
        again.kill()


def test_a_second_ctrl_c_in_the_merge_ends_it_at_once(tmp_path: Path, settings: dict[str, Any]) -> None:
    live = Live(tmp_path / "run", settings | FOR_PHASE["merge"])
    try:
        live.until_process("merge")
        merge = live.having("merge")[0]
        merge.suspend()  # it will not clean up in time
        live.process.send_signal(signal.SIGINT)
        live.until(lambda: signal.SIGTERM and merge.is_running())
        with pytest.raises(psutil.TimeoutExpired):
            merge.wait(1.0)
        live.process.send_signal(signal.SIGINT)
        assert live.end(10) == 75, live.said()
    finally:
        live.kill()


def test_a_signal_in_the_push_leaves_it_to_the_next_launch(tmp_path: Path, settings: dict[str, Any]) -> None:
    from tests.loopback.hub import Hub

    rows = tiny.write_chats(tmp_path / "few.jsonl", 20)
    with Hub() as hub:
        hub.fault("/commit/", hang=True, times=1)
        environment = hub.environment(tmp_path)
        pushed = settings | {
            "max_steps": 2, "push_to_hub": True, "hub_private_repo": True, "dataset_name": str(rows),
            "launch": {"strategy": "single", "processes_per_node": 1},
        }  # fmt: skip
        live = Live(tmp_path / "run", pushed, environment=environment)
        try:
            live.until(lambda: any("/commit/" in request for request in hub.requests))
            live.process.send_signal(signal.SIGTERM)
            code = live.end(20)
            print(code, live.outcome())
            assert (code, live.outcome()["left"]) == (75, ["push"])
            again = Live(tmp_path / "run", pushed, environment=environment)
            assert again.end() == 0, again.said()
            [repository] = hub.repositories
            assert "adapter_model.safetensors" in hub.files(repository)
        finally:
            live.kill()
