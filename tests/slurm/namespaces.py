"""Hosts as Linux namespaces: start one, find it again, enter it. What runs on a host dies with its first process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.slurm.install import search_path

HOST = Path(__file__).with_name("host.py")
UNSHARE = ("unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
GONE_SECONDS = 20
POLL_SECONDS = 0.2
_carriers: list[subprocess.Popen[str]] = []
"""What stands between this process and the hosts it started; kept to be reaped."""


class CommandFailed(Exception):
    """A command on a host that ended with another status than 0."""


class Command(subprocess.Popen[str]):
    """A command that runs on a host. Signals reach it, and not only the nsenter that carries it there."""

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for process in psutil.Process(self.pid).children() or [psutil.Process(self.pid)]:
                    process.send_signal(sig)


def start_host(
    directory: Path,
    name: str,
    address: str,
    *,
    within: psutil.Process | None = None,
    plug: Callable[[int], Any] = lambda pid: None,
    dies_with_caller: bool = False,
) -> psutil.Process:
    """Start a host and wait until its network is up; return its first process.

    Args:
        within: the first process of the host that this one must not outlive.
        plug: called with the first process's id, to cable the host's network.
        dies_with_caller: have the kernel end the host when this thread ends, however it ends.
    Raises:
        CommandFailed: the host could not set itself up.
    """
    words = [*UNSHARE, sys.executable, "-IS", str(HOST), str(directory), name, address]
    if within is not None:
        words = ["nsenter", "--target", str(within.pid), "--pid", "--", *words]
    if dies_with_caller:
        words = [*DIE_WITH_PARENT, "--", *words]
    log = directory / f"log/{name}.host"
    with log.open("a") as errors:
        # In a session of its own, so that Ctrl-C in the terminal leaves it to its owner to end it.
        started = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={"PATH": search_path()},
            start_new_session=True,
        )
    assert started.stdout is not None
    with started.stdout:
        born = started.stdout.readline() == "born\n"
        init = find_host(directory, name, address, among=psutil.Process(started.pid)) if born else None
        if init is not None:
            plug(init.pid)
            if started.stdout.readline() == "ready\n":
                _carriers.append(started)
                return init
    started.kill()
    started.wait()
    raise CommandFailed(f"{name} did not come up: {log.read_text().strip()}")


def find_host(
    directory: Path, name: str, address: str, among: psutil.Process | None = None
) -> psutil.Process | None:
    """Return the first process of a host that lives, by its command line; nothing on disk can be stale."""
    wanted = ["-IS", str(HOST), str(directory), name, address]
    for process in among.children(recursive=True) if among else psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            if process.cmdline()[1:] == wanted:
                return process
    return None


def kill_host(init: psutil.Process) -> None:
    """Power a host off: every process on it, and on the hosts within it, is gone when this returns."""
    with suppress(psutil.NoSuchProcess):
        init.kill()
        init.wait(GONE_SECONDS)
    _carriers[:] = [carrier for carrier in _carriers if carrier.poll() is None]


def alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def enter(init: psutil.Process, words: Sequence[str | Path], cwd: Path) -> list[str]:
    """Return the words that run a command on a host; it dies with the process that runs them."""
    carrier = ["nsenter", "--target", str(init.pid), "--all", "--", *DIE_WITH_PARENT, "--"]
    return [*carrier, "env", f"--chdir={cwd}", "--", *map(str, words)]


def processes_within(init: psutil.Process) -> list[psutil.Process]:
    """List the living processes of a host, without its first one."""
    space = _process_space(init.pid)
    others = [process for process in psutil.process_iter() if process != init]
    return [process for process in others if _process_space(process.pid) == space and alive(process)]


def _process_space(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for a true answer, and return it.

    Raises:
        TimeoutError: not within these seconds.
    """
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(POLL_SECONDS)
    return answer
