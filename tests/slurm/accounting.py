"""Accounting for a cluster: slurmdbd over a MariaDB of its own, so that sacct works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from tests.slurm.namespaces import wait_until
from tests.slurm.settings import DATABASE_PORT

START_SECONDS = 60
GRANT = """\
create database if not exists slurm;
create user if not exists slurm@localhost identified by 'slurm';
create user if not exists slurm@'127.0.0.1' identified by 'slurm';
grant all on slurm.* to slurm@localhost;
grant all on slurm.* to slurm@'127.0.0.1';
"""
Run = Callable[..., CompletedProcess[str]]


def start(run: Run, directory: Path) -> None:
    """Start the database and slurmdbd on login, and wait until they answer.

    Args:
        run: runs words on login; `check=False` returns a failure instead of raising it.
    """
    data, socket = directory / "database", directory / "run/database.sock"
    run(["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db"])
    server = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={socket}"]
    server += [
        "--bind-address=127.0.0.1",
        f"--port={DATABASE_PORT}",
        f"--pid-file={directory}/run/database.pid",
    ]
    # What slurmdbd asks for, or complains about.
    server += ["--innodb-lock-wait-timeout=900", "--innodb-buffer-pool-size=64M"]
    # Nothing here has to outlive a power cut.
    server += ["--innodb-flush-log-at-trx-commit=0"]
    _start_daemon(run, server, directory / "log/mariadbd.log")
    client = ["mariadb", "--no-defaults", f"--socket={socket}"]

    def answers(words: list[str]) -> Callable[[], bool]:
        return lambda: run(words, check=False).returncode == 0

    wait_until(answers([*client, "-e", "select 1"]), START_SECONDS, f"mariadbd answers, see {directory}/log")
    run([*client, "-e", GRANT])
    run(["slurmdbd"])
    show = ["sacctmgr", "-n", "show", "cluster"]
    wait_until(answers(show), START_SECONDS, f"slurmdbd answers, see {directory}/log")
    run(["sacctmgr", "-i", "add", "cluster", "test"])


def _start_daemon(run: Run, words: list[str], log: Path) -> None:
    """Have login's first process adopt a program that does not go to the background by itself."""
    run(["sh", "-c", 'log=$1; shift; setsid "$@" > "$log" 2>&1 < /dev/null &', "sh", log, *words])
