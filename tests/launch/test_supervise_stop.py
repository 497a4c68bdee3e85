"""What the supervisor does about a stop that is more than passing it on: deadlines, loading, a launcher that is told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.launch.supervised import Supervised, alone, in_pairs, wait_for

NOTHING_LOST = "stopped before the training began: nothing is lost"
OUT_OF_TIME = (
    "the run did not stop in the time it was given: what was trained since the last checkpoint is lost"
)


def test_ranks_that_do_not_leave_before_the_deadline_are_ended_there(tmp_path: Path) -> None:
    began = time.monotonic()
    supervised = Supervised(tmp_path, alone("hang"), options={"deadline_seconds": 8.0})
    code, shown = supervised.end()
    took = time.monotonic() - began
    print(code, f"{took:.1f} s", shown)
    assert (code, shown[-1]) == (75, OUT_OF_TIME)
    assert 2 < took < 8, "5 s before the deadline, so that the exit code is still told"
    outcome = supervised.outcome()
    assert (outcome["reason"], outcome["what"]) == ("launch.time_limit 1", OUT_OF_TIME)


def test_the_ranks_are_handed_the_deadline(tmp_path: Path) -> None:
    code = "import os, time; print(float(os.environ['SFT_DEADLINE']) - time.time(), os.environ['SFT_DEADLINE_SOURCE'])"
    command = [alone()[0], "-c", code]
    supervised = Supervised(tmp_path, command, options={"deadline_seconds": 60.0})
    supervised.end()
    left, source = supervised.run.launcher_log.read_text().split(maxsplit=1)
    assert 50 < float(left) < 60
    assert source == "launch.time_limit 1\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_while_the_ranks_load_a_stop_ends_them_at_once(tmp_path: Path, number: signal.Signals) -> None:
    supervised = Supervised(tmp_path, alone("load for long")).ranks_began()
    wait_for(lambda: '"load"' in supervised.run.rank_state(0).read_text())
    before = time.monotonic()
    supervised.signal(number)
    code, shown = supervised.end()
    assert (code, shown[-1]) == (75, NOTHING_LOST)
    assert time.monotonic() - before < 5
    assert supervised.outcome()["reason"] == number.name


def test_on_several_nodes_the_ranks_stop_together_even_then(tmp_path: Path) -> None:
    """Another node's ranks would be left waiting for these."""
    supervised = Supervised(
        tmp_path, alone("load for long"), options={"nodes": 2, "stop_grace_seconds": 1.5}
    ).ranks_began()
    wait_for(lambda: '"load"' in supervised.run.rank_state(0).read_text())
    supervised.signal(signal.SIGTERM)
    wait_for(supervised.run.stop_file.exists)
    assert supervised.run.stop_file.read_text() == "SIGTERM"
    assert supervised.end()[0] == 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_torchrun_that_is_told_to_end_stops_the_run_in_order(
    tmp_path: Path, number: signal.Signals
) -> None:
    supervised = Supervised(tmp_path, in_pairs(tmp_path, "train"), ranks=2).ranks_began()
    os.kill(supervised.pids()[0][2], number)
    code, shown = supervised.end()
    print(code, supervised.outcome(), shown[-1])
    assert code == 75
    assert supervised.outcome()["status"] == "stopped"


def test_a_torchrun_that_is_told_to_end_while_its_ranks_begin_has_stopped_the_run(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, in_pairs(tmp_path, "no state"), ranks=2)
    wait_for(lambda: len(supervised.survivors()) >= 3)
    torchrun = next(line for line in supervised.survivors() if "accelerate_cli" in line)
    time.sleep(0.3)
    os.kill(int(torchrun.split()[0]), signal.SIGTERM)
    code, shown = supervised.end()
    print(code, supervised.outcome(), shown)
    assert (code, shown[-1]) == (75, NOTHING_LOST)
    assert supervised.outcome()["reason"] == "SIGTERM"
