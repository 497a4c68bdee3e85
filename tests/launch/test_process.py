"""Ties between processes, and the lock of a run directory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sft.errors import UserError
from sft.launch.lock import RunLock
from sft.launch.process import descendants, end_processes, start_bound
from sft.rundir import RunDirectory
from tests.launch.supervised import wait_for

# A parent that starts a child which binds itself, prints the child's pid, and is then killed.
PARENT = """\
import os, subprocess, sys, time
code = "from sft.parent import die_with_parent; die_with_parent(); print('bound', flush=True); import time; time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def child_of_a_killed_parent(environment: dict[str, str]) -> psutil.Process:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("SFT_", "TORCHELASTIC"))
    }
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=clean | environment)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    return child


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_rank_dies_with_its_launcher() -> None:
    child = child_of_a_killed_parent({"TORCHELASTIC_RUN_ID": "x"})
    wait_for(lambda: is_gone(child), 5)


def test_a_process_started_from_a_shell_outlives_it() -> None:
    child = child_of_a_killed_parent({})
    time.sleep(0.3)
    assert not is_gone(child)
    child.kill()


def test_a_rank_whose_supervisor_is_dead_already_does_not_begin() -> None:
    code = (
        "import os, subprocess, sys; from sft.parent import *;"
        "dead = subprocess.Popen(['true']); dead.wait();"
        "os.environ[SUPERVISOR_VARIABLE] = supervisor_tag().replace(str(os.getpid()), str(dead.pid), 1);"
        "os.environ['SFT_SUPERVISED'] = '1'; die_with_parent(); print('began')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "")


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    before = frozenset(process.pid for process in descendants())
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    with (tmp_path / "log").open("ab") as log:
        process = start_bound([sys.executable, "-c", code], dict(os.environ), log)
    wait_for(lambda: (tmp_path / "log").read_text())
    began = time.monotonic()
    assert end_processes(lambda: descendants(before | {0}), grace_seconds=0.4) == []
    assert 0.4 <= time.monotonic() - began < 3
    assert is_gone(psutil.Process(process.pid)) if psutil.pid_exists(process.pid) else True


def test_a_second_launch_into_a_live_run_directory_is_refused(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    host = os.uname().nodename
    with RunLock(run), pytest.raises(UserError) as refused, RunLock(run):
        pass
    assert re.sub(r"\(since [-0-9: ]+\)", "(since NOW)", str(refused.value)) == (
        f"the run directory is in use by process {os.getpid()} on {host} (since NOW)\n"
        f"  where: {run.lock}\n"
        f"  fix:   wait for it to end, stop it in order with `kill {os.getpid()}` on {host}, "
        "or choose another output_dir"
    )
    with RunLock(run):
        assert run.lock.read_text().startswith('{"host": ')
    assert run.lock.read_text() == ""


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sft.launch.lock import RunLock;"
        "from sft.rundir import RunDirectory; RunLock(RunDirectory(Path(sys.argv[1]))).__enter__();"
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with (
        pytest.raises(UserError, match=f"in use by process {holder.pid} on "),
        RunLock(RunDirectory(tmp_path)),
    ):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with RunLock(RunDirectory(tmp_path)):
        pass
