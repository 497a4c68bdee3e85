"""Ranks that come no further: found by the limit of their phase, told where they stand, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.config.limits import LimitsConfig
from sft.errors import UserError
from sft.launch import watch
from sft.launch.extensions import refuse_stale_locks
from sft.launch.said import RankState
from sft.rundir import RunDirectory
from tests.launch.supervised import FAKE_RANK, Supervised, alone, two

BEGUN = ["started on 2 processes", "training"]
STACKS = "  where: RUN/_sft/stacks"
SHORT = {"train": 0.5, "save": 0.5, "load": 0.5}


def line_of(text: str) -> int:
    """Find the line of the fake rank that holds this text."""
    lines = FAKE_RANK.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip() == text)


ASLEEP = f"{FAKE_RANK}:{line_of('time.sleep(1)')} in hang"


def hung(directory: Path, *behaviours: str, limits: dict[str, float] = SHORT, ranks: int = 2) -> Supervised:
    command = two(*behaviours) if ranks == 2 else alone(*behaviours)
    return Supervised(directory, command, ranks=ranks, options={"limits": limits})


def test_the_line_says_which_rank_is_where_and_the_files_where_each_stands(tmp_path: Path) -> None:
    supervised = hung(tmp_path, "hang in step 11", "1:hang in save").ranks_began()
    began = time.monotonic()
    code, shown = supervised.end(20)
    assert time.monotonic() - began < 8
    line = "rank 0 in step 11, rank 1 in save: no progress for 0.5 s (limit of train)"
    fix = "see there what they wait for; if it only takes longer, set launch.limits.train above 0.5"
    assert (code, shown) == (
        6,
        [*BEGUN, line, STACKS, f"  fix:   {fix}", f"  rank 0 is at {ASLEEP}", f"  rank 1 is at {ASLEEP}"],
    )
    assert supervised.outcome() == {
        "status": "failed", "exit_code": 6, "step": 0, "what": line, "where": str(supervised.run.stacks), "fix": fix,
    }  # fmt: skip
    for rank, place in enumerate(["in step 11", "in save"]):
        head, reason, _, *frames = supervised.run.rank_stacks(rank).read_text().splitlines()
        assert head.endswith(f"rank {rank} {place}")
        assert reason == f"--- {line}"
        assert frames[0] == f'  File "{FAKE_RANK}", line {line_of("time.sleep(1)")} in hang'


def test_a_rank_that_never_begins_is_told_and_its_peer_is_not_waited_for(tmp_path: Path) -> None:
    supervised = hung(tmp_path, "hang in save", "1:no state", limits={"start": 1.5})
    code, shown = supervised.end(20)
    assert (code, shown) == (
        6,
        [
            *BEGUN,
            "rank 0 in save, rank 1 has not begun: no progress for 1.5 s (limit of start)",
            "  where: RUN/_sft/logs/launcher.log",
            "  fix:   see there what they wait for; if it only takes longer, set launch.limits.start above 1.5",
            f"  rank 0 is at {ASLEEP}",
        ],
    )


def test_a_launcher_that_begins_no_rank_is_ended(tmp_path: Path) -> None:
    supervised = hung(tmp_path, "no state", limits={"start": 1.5}, ranks=1)
    code, shown = supervised.end(20)
    assert (code, shown[0]) == (6, "rank 0 has not begun: no progress for 1.5 s (limit of start)")


def test_a_stopped_rank_cannot_write_its_stacks_and_that_is_told(tmp_path: Path) -> None:
    supervised = hung(tmp_path, "hang in step 11", "1:stop itself").ranks_began()
    code, shown = supervised.end(20)
    pid = supervised.pids()[1][0]
    assert (code, shown) == (
        6,
        [
            *BEGUN,
            f"rank 0 in step 11, rank 1 in step 11 (stopped by a signal, pid {pid}): no progress for 0.5 s "
            "(limit of train)",
            STACKS,
            "  fix:   find out what holds the process; the run continues from its last checkpoint",
            f"  rank 0 is at {ASLEEP}",
        ],
    )


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock in an extensions cache of the test's own."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    path = tmp_path / "extensions" / "cpu_adam" / "lock"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


@pytest.fixture
def builder(lock: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock, as one that builds does."""
    code = "import sys, time; held = open(sys.argv[1]); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_that_a_killed_build_left_is_named_with_its_remedy(tmp_path: Path, lock: Path) -> None:
    code, shown = hung(tmp_path / "run", "wait for a build").end(20)
    assert code == 6
    assert shown[2] == "ranks 0-1 in load: no progress for 0.5 s (limit of load)"
    assert shown[4] == f"  fix:   remove what a build that was killed has left: rm {lock}"
    assert "file_baton.py" in shown[5]


@pytest.mark.slow
def test_a_lock_that_a_build_holds_is_not_blamed(
    tmp_path: Path, lock: Path, builder: subprocess.Popen[bytes]
) -> None:
    code, shown = hung(tmp_path / "run", "wait for a build").end(20)
    assert (code, "rm " in shown[4]) == (6, False)


def test_an_old_lock_that_nobody_holds_is_refused_before_the_start(
    lock: Path, builder: subprocess.Popen[bytes]
) -> None:
    os.utime(lock, (time.time() - 7200, time.time() - 7200))
    refuse_stale_locks(os.environ)
    builder.kill()
    builder.wait()
    with pytest.raises(UserError) as refused:
        refuse_stale_locks(os.environ)
    assert (refused.value.exit_code, str(refused.value)) == (
        4,
        "the torch extension cpu_adam is locked by a build that was killed 2 h ago: every rank would wait for it\n"
        f"  where: {lock}\n  fix:   rm {lock}",
    )
    os.utime(lock)
    refuse_stale_locks(os.environ)


def test_steps_keep_a_run_alive(tmp_path: Path) -> None:
    supervised = hung(tmp_path, "go slowly", limits={"train": 2.0}, ranks=1)
    assert supervised.end(20)[0] == 0


def test_a_run_that_is_stopping_has_the_time_it_was_given(tmp_path: Path) -> None:
    supervised = Supervised(
        tmp_path, two("save slowly"), ranks=2, options={"limits": {"train": 1.0}}
    ).ranks_began()
    supervised.signal(signal.SIGTERM)
    assert supervised.end(20)[0] == 75


def test_a_rank_that_hangs_once_all_is_written_does_not_undo_it(tmp_path: Path) -> None:
    supervised = hung(tmp_path, "end and hang", limits={"leave": 0.5}, ranks=1).ranks_began()
    code, shown = supervised.end(20)
    assert (code, supervised.outcome()["status"]) == (0, "finished")
    assert shown[-2:] == [
        "rank 0 in leave: no progress for 0.5 s (limit of leave)",
        "the run had ended before: nothing of it is lost",
    ]


# --- the watch alone, on a clock of its own


class Clock:
    """A run that is looked at every second."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, **limits: float) -> None:
        self.now = 1000.0
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.run = RunDirectory(directory)
        self.run.ranks.mkdir(parents=True)
        self.watch = watch.Watch(self.run, LimitsConfig(**limits), range(2))

    def look(self, seconds: float, *states: RankState, every: float = 1.0) -> str | None:
        """Look for some seconds; return the line of the hang, if one is found."""
        for _ in range(round(seconds / every)):
            self.now += every
            if hang := self.watch.look({state.rank: state for state in states}):
                return hang.line
        return None


def state(rank: int, phase: str, **more: Any) -> RankState:
    return RankState(rank=rank, pid=1, phase=phase, **more)


def test_a_rank_that_waits_for_another_has_the_time_that_the_other_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path, monkeypatch, train=5, save=20)
    both = state(0, "save", step=3), state(1, "train", step=3)
    assert clock.look(20, *both) is None
    assert clock.look(2, *both) == "rank 0 in save, rank 1 in step 4: no progress for 20 s (limit of save)"
    back = state(0, "train", step=3), state(1, "train", step=3)
    assert clock.look(3, *back) == "ranks 0-1 in step 4: no progress for 5 s (limit of train)"


def test_ranks_of_other_nodes_are_waited_for_and_told_of_but_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path, monkeypatch, train=5, save=9)
    here = state(0, "train", step=3), state(1, "train", step=3)
    there = [state(rank, "train", step=3) for rank in (4, 5, 6)]
    assert clock.look(9, *here, *there, state(2, "save", step=3)) is None
    assert clock.look(2, *here, *there, state(2, "save", step=3)) == (
        "rank 2 in save, ranks 0-1, 4-6 in step 4: no progress for 9 s (limit of save)"
    )


def test_a_job_that_was_suspended_has_not_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(tmp_path, monkeypatch, train=5)
    both = state(0, "train", step=3), state(1, "train", step=3)
    assert clock.look(2, *both) is None
    assert clock.look(7200, *both, every=7200) is None
    assert clock.look(2, *both) is None
    assert clock.look(2, *both) is not None


def test_a_state_that_a_full_disk_keeps_from_being_written_still_tells_of_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path, monkeypatch, train=5)
    both = state(0, "train", step=3), state(1, "train", step=3)
    for _ in range(4):
        for rank in range(2):
            clock.run.rank_state(rank).touch()
        assert clock.look(4, *both) is None


def test_ended_ranks_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(tmp_path, monkeypatch, train=5)
    ended = state(0, "train", status="done"), state(1, "train", status="failed")
    assert clock.look(60, *ended) is None


def test_a_phase_without_a_limit_of_its_own_has_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path, monkeypatch)
    both = state(0, "other"), state(1, "other")
    assert clock.look(7200, *both, every=2) is None
    assert clock.look(4, *both, every=2) == "ranks 0-1 in other: no progress for 7200 s (limit of other)"
