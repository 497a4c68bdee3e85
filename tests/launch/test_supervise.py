"""The supervisor over real processes: fake ranks alone, and in pairs under the real `accelerate launch`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sft.launch.verdict import MEMORY
from tests.launch.supervised import Supervised, alone, in_pairs, wait_for

BEGUN = ["started on 1 process", "training"]
LOG = "  log:   RUN/_sft/logs/rank-0.log"
TAIL = ["the end of RUN/_sft/logs/rank-0.log:", "rank 0 begins"]
STOPPING = "stopping in order: the run saves a checkpoint first; Ctrl-C again stops at once"


def without_steps(shown: list[str]) -> list[str]:
    """Leave out the progress, of which there is more or less."""
    return [line for line in shown if not line.startswith("step ")]


@pytest.mark.parametrize(
    ("behaviour", "code", "shown"),
    [
        ("user problem", 3, ["out of memory", "  where: step 1", "  fix:   a smaller batch", LOG]),
        (
            "raise",
            1,
            ["rank 0 failed: RuntimeError: boom", LOG, *TAIL, "30%", "Traceback ...", "RuntimeError: boom"],
        ),
        ("agree to fail", 5, ["the loss is NaN", "  where: step 2", "  fix:   a lower learning rate", LOG]),
        ("exit without a word", 1, ["rank 0 ended with exit code 3 and did not say why", LOG, *TAIL]),
        (
            "leave without an outcome",
            1,
            [
                "every rank ended, but they did not say how the run ended",
                "  where: RUN/_sft/outcome.json",
                "  fix:   this is a bug of the kit: please report it with the logs beside that file",
                LOG,
                *TAIL,
            ],
        ),
    ],
)
def test_a_failure_ends_with_its_code_and_its_cause(
    tmp_path: Path, behaviour: str, code: int, shown: list[str]
) -> None:
    supervised = Supervised(tmp_path, alone(behaviour))
    assert supervised.end() == (code, BEGUN + shown)
    assert supervised.outcome()["exit_code"] == code
    assert supervised.outcome()["status"] == "failed"
    assert supervised.last_event() == {"event": "end", "status": "failed", "exit_code": code, "step": 0}


def test_a_run_that_finishes_shows_plain_lines_and_takes_its_orphans_along(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, alone("leave an orphan"), options={"kill_grace_seconds": 0.5})
    code, shown = supervised.end()
    assert (code, shown) == (
        0,
        [
            *BEGUN,
            "step 1/3  loss 2.000  lr 2.0e-04",
            "step 2/3  loss 1.000  lr 2.0e-04",
            "step 3/3  loss 0.667  lr 2.0e-04",
            "finished at step 3",
        ],
    )
    assert not psutil.pid_exists(int((tmp_path / "_sft/orphan").read_text()))
    assert supervised.last_event() == {"event": "end", "status": "finished", "exit_code": 0, "step": 3}


def test_stale_files_of_an_earlier_launch_are_cleared_and_its_account_is_kept(tmp_path: Path) -> None:
    kit = tmp_path / "_sft"
    for name, text in {
        "stop": "",
        "outcome.json": '{"status": "failed", "exit_code": 5}',
        "ranks/rank-0.json": '{"status": "failed"}',
        "ranks/rank-7.json": '{"status": "failed"}',
        "logs/rank-0.log": "said before\n",
        "events.jsonl": '{"event": "log", "loss": 9}\n{"event": "lo',
    }.items():
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        (kit / name).write_text(text)
    assert Supervised(tmp_path, alone("finish")).end()[0] == 0
    assert not (kit / "stop").exists()
    assert [path.name for path in (kit / "ranks").iterdir()] == ["rank-0.json"]
    assert (kit / "logs/rank-0.log").read_text() == "said before\nrank 0 begins\n"
    lines = (kit / "events.jsonl").read_text().splitlines()
    assert lines[:2] == ['{"event": "log", "loss": 9}', '{"event": "lo']
    assert json.loads(lines[2])["event"] == "start"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_stops_in_order_and_a_second_changes_nothing(tmp_path: Path, number: signal.Signals) -> None:
    supervised = Supervised(tmp_path, alone("save slowly")).ranks_began()
    supervised.signal(number)
    time.sleep(0.6)
    supervised.signal(signal.SIGTERM)
    code, shown = supervised.end()
    assert code == 75
    assert without_steps(shown)[:-1] == [*BEGUN, f"{number.name} received: {STOPPING}"]
    assert shown[-1] == f"stopped at step {supervised.outcome()['step']}, to be resumed from there"
    assert supervised.outcome()["status"] == "stopped"


def test_ctrl_c_twice_ends_a_run_at_once(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, alone("hang")).ranks_began()
    supervised.signal(signal.SIGINT)
    supervised.signal(signal.SIGINT)  # passed on by a wrapper: the same wish
    wait_for(supervised.run.stop_file.exists)
    time.sleep(0.5)
    assert supervised.process.poll() is None
    before = time.monotonic()
    supervised.signal(signal.SIGINT)
    what = "stopped at once, as asked: what was trained since the last checkpoint is lost"
    assert supervised.end() == (75, [*BEGUN, STOPPING, what])
    assert time.monotonic() - before < 3
    assert supervised.outcome() == {
        "status": "stopped", "exit_code": 75, "step": 0, "reason": "SIGINT", "what": what,
    }  # fmt: skip


def test_a_run_that_does_not_stop_in_time_is_ended(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, alone("hang"), options={"stop_grace_seconds": 0.5}).ranks_began()
    supervised.signal(signal.SIGINT)
    what = "the run did not stop in the time it was given: what was trained since the last checkpoint is lost"
    assert supervised.end() == (75, [*BEGUN, STOPPING, what])


def test_a_stop_before_any_rank_began_ends_at_once(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, alone("no state"))
    wait_for(lambda: supervised.run.launcher_log.exists() and supervised.survivors())
    supervised.signal(signal.SIGINT)
    assert supervised.end(5) == (75, ["stopped before the training began: nothing is lost"])


def test_a_hangup_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    ignore = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    supervised = Supervised(tmp_path, alone("finish"), prefix=[sys.executable, "-c", ignore]).ranks_began()
    supervised.signal(signal.SIGHUP)
    assert supervised.end()[0] == 0


def test_a_reader_that_goes_away_does_not_end_the_training(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, alone("finish"))
    assert supervised.process.stderr is not None
    supervised.process.stderr.close()
    assert supervised.process.wait(20) == 0
    assert supervised.outcome()["status"] == "finished"


CASES: list[tuple[list[str], int, list[str]]] = [
    (
        ["/no/such/launcher", "x"],
        4,
        [
            "cannot start /no/such/launcher: No such file or directory",
            "  where: /no/such/launcher x",
            "  fix:   activate the environment that the kit is installed in",
        ],
    ),
    (
        [sys.executable, "-c", "import sys; print('what it said'); sys.exit(3)"],
        1,
        [
            "the launcher ended (exit code 3) before any rank began",
            "  log:   RUN/_sft/logs/launcher.log",
            "the end of RUN/_sft/logs/launcher.log:",
            "what it said",
        ],
    ),
    (
        [sys.executable, "-c", "import no_such_module"],
        4,
        [
            "the Python module no_such_module is missing in the environment that the launcher runs in",
            "  where: RUN/_sft/logs/launcher.log",
            "  fix:   activate the environment that the kit is installed in, or install what is missing",
            "  log:   RUN/_sft/logs/launcher.log",
        ],
    ),
    (
        [sys.executable, "-c", "import socket as s; a = s.create_server(('127.0.0.1', 0)); s.create_server(a.getsockname())"],
        4,
        [
            "the port that the processes meet on is in use",
            "  where: RUN/_sft/logs/launcher.log",
            "  fix:   set main_process_port to a free port, or to 0 on one machine to have one chosen",
            "  log:   RUN/_sft/logs/launcher.log",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("command", "code", "shown"), CASES, ids=["missing", "ends", "module", "port"])
def test_a_launcher_that_starts_no_rank_is_explained(
    tmp_path: Path, command: list[str], code: int, shown: list[str]
) -> None:
    supervised = Supervised(tmp_path, command)
    assert supervised.end() == (code, shown)
    assert supervised.outcome()["exit_code"] == code


def pair(tmp_path: Path, *behaviours: str, **options: Any) -> Supervised:
    return Supervised(tmp_path, in_pairs(tmp_path, *behaviours), ranks=2, options=options)


PAIR_BEGUN = ["started on 2 processes", "training"]


def test_a_user_problem_of_one_rank_ends_the_rank_that_hangs_beside_it(tmp_path: Path) -> None:
    supervised = pair(tmp_path, "hang", "1:user problem", kill_grace_seconds=1.0)
    problem = ["out of memory", "  where: step 1", "  fix:   a smaller batch"]
    assert supervised.end() == (3, [*PAIR_BEGUN, *problem, "  log:   RUN/_sft/logs/rank-1.log"])


def test_a_killed_rank_is_blamed_and_not_the_peer_that_lost_it(tmp_path: Path) -> None:
    supervised = pair(tmp_path, "0:lose its peer", "1:be killed", kill_grace_seconds=1.0)
    code, shown = supervised.end()
    where = f"  where: pid {supervised.pids()[1][0]} on {os.uname().nodename}"
    assert (code, shown) == (
        6,
        [
            *PAIR_BEGUN,
            "rank 1 was killed by SIGKILL in the phase 'train'",
            where,
            f"  fix:   {MEMORY}",
            "  log:   RUN/_sft/logs/rank-1.log",
            "  rank 0 failed too (RuntimeError: Connection closed by peer): RUN/_sft/logs/rank-0.log",
            "the end of RUN/_sft/logs/rank-1.log:",
            "rank 1 begins",
        ],
    )


def test_ranks_die_with_a_torchrun_that_is_killed(tmp_path: Path) -> None:
    supervised = pair(tmp_path, "train").ranks_began()
    os.kill(supervised.pids()[0][2], signal.SIGKILL)
    code, shown = supervised.end(10)
    assert code == 6
    assert without_steps(shown) == [
        *PAIR_BEGUN,
        "the launcher was killed by SIGKILL, and its ranks with it",
        f"  fix:   {MEMORY}",
        "  log:   RUN/_sft/logs/launcher.log",
    ]


def test_everything_dies_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    supervised = pair(tmp_path, "train").ranks_began()
    below = [pid for pids in supervised.pids().values() for pid in pids]
    assert all(psutil.pid_exists(pid) for pid in below)
    supervised.signal(signal.SIGKILL)
    wait_for(lambda: not supervised.survivors(), 5)
    assert supervised.process.wait() == -signal.SIGKILL


def test_a_scheduler_that_signals_every_process_leaves_the_ranks_time_to_save(tmp_path: Path) -> None:
    supervised = pair(tmp_path, "save slowly", kill_grace_seconds=0.5).ranks_began()
    supervised.signal(signal.SIGTERM)
    for pid in {pid for rank, _, launcher in supervised.pids().values() for pid in (rank, launcher)}:
        os.kill(pid, signal.SIGTERM)
    code, shown = supervised.end()
    assert code == 75
    assert without_steps(shown)[:-1] == [*PAIR_BEGUN, f"SIGTERM received: {STOPPING}"]
    assert supervised.outcome()["status"] == "stopped"


def test_ctrl_c_stops_two_ranks_in_order(tmp_path: Path) -> None:
    supervised = pair(tmp_path, "train").ranks_began()
    supervised.signal(signal.SIGINT)
    code, shown = supervised.end()
    assert code == 75
    assert without_steps(shown)[:-1] == [*PAIR_BEGUN, STOPPING]
    assert "Traceback" not in supervised.run.launcher_log.read_text()


def test_torchrun_gives_its_ranks_longer_than_the_supervisor_does(tmp_path: Path) -> None:
    code = "import os; print(os.environ['TORCH_ELASTIC_SHUTDOWN_TIMEOUT'])"
    supervised = Supervised(tmp_path, [sys.executable, "-c", code], options={"stop_grace_seconds": 99.5})
    supervised.end()
    assert supervised.run.launcher_log.read_text() == "130\n"


@pytest.mark.slow
def test_ranks_may_save_for_longer_than_the_30_seconds_that_torchrun_gives(tmp_path: Path) -> None:
    supervised = pair(tmp_path, "save for 35 seconds", stop_grace_seconds=60.0).ranks_began()
    launcher = supervised.pids()[0][2]
    supervised.signal(signal.SIGTERM)
    os.kill(launcher, signal.SIGTERM)
    assert supervised.end(90)[0] == 75
    assert supervised.outcome()["status"] == "stopped"
