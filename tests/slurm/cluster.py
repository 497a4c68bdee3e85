"""A real Slurm of several nodes on one Linux machine, as root and without systemd.

Every host (login, node1, node2, ...) has a hostname, a network and a process tree of its own; files are shared. The
controller runs on login. There is no route out of the cluster: what the nodes are to reach is started on login. All of
it lives within the namespaces of login, so it ends with login's first process, and that one with pytest.

To play with one:

    python -m tests.slurm.cluster up --nodes 3
    python -m tests.slurm.cluster exec login sbatch --wrap 'srun hostname' --nodes 2
    python -m tests.slurm.cluster exec node1 bash
    python -m tests.slurm.cluster cut node1     # or mend, kill-slurmd, crash, boot
    python -m tests.slurm.cluster status
    python -m tests.slurm.cluster down
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from tests.slurm import accounting, install, namespaces
from tests.slurm.host import NAME_SERVER
from tests.slurm.namespaces import Command, CommandFailed, wait_until
from tests.slurm.outside import Attempts
from tests.slurm.settings import LOGIN, NODE_PORT, Settings, write_files

PARENT, PREFIX = Path("/tmp"), "sft-slurm-"
"""Not pytest's directory, nor TMPDIR: the path of munge's socket must stay below 108 characters."""
BY_HAND = PARENT / "sft-slurm"
DAEMONS = {"munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd"}
READY = {"idle", "mixed", "allocated", "completing"}
"""States of a node that serves; a star behind one means that it does not answer."""
READY_SECONDS = 60
DEFAULT = Settings()
FAULTS = ("cut", "mend", "kill-slurmd", "crash", "boot")


class Cluster:
    """A cluster in a directory. `up()` starts it, and `down()` leaves nothing of it."""

    def __init__(
        self, settings: Settings = DEFAULT, directory: Path | None = None, *, dies_with_caller: bool = True
    ) -> None:
        """Prepare a cluster; without a directory, in a new one of its own.

        Args:
            dies_with_caller: have the kernel end it together with the thread that calls `up()`.
        """
        self.settings = settings
        self.directory = directory or _new_directory()
        self.dies_with_caller = dies_with_caller
        self._inits: dict[str, psutil.Process] = {}
        self._attempts = Attempts(self.directory / "log/names")

    @classmethod
    def running(cls, directory: Path) -> Cluster:
        """Return the cluster that was started in this directory.

        Raises:
            FileNotFoundError: there is none.
        """
        return cls(Settings(**json.loads((directory / "settings.json").read_text())), directory)

    @property
    def nodes(self) -> list[str]:
        return self.settings.node_names

    # --- up and down

    def up(self) -> None:
        """Start everything, and wait until every node serves.

        Raises:
            CommandFailed, TimeoutError: something did not start; the message or the logs say why.
        """
        write_files(self.directory, self.settings)
        (self.directory / "settings.json").write_text(json.dumps(asdict(self.settings)))
        address = self.settings.address(LOGIN)
        self._inits[LOGIN] = namespaces.start_host(
            self.directory, LOGIN, address, dies_with_caller=self.dies_with_caller
        )
        self._start_munge()
        if self.settings.accounting:
            accounting.start(lambda words, **options: self.exec(LOGIN, words, **options), self.directory)
        self.exec(LOGIN, ["slurmctld"])
        wait_until(self._controller_answers, READY_SECONDS, f"slurmctld answers, see {self.directory}/log")
        for node in self.nodes:
            self._start_node(node)
        for node in self.nodes:
            self.wait_until_ready(node)

    def down(self) -> None:
        """End every process of the cluster, and delete its directory."""
        login = self._init(LOGIN)
        if login is not None:
            namespaces.kill_host(login)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start_munge(self) -> None:
        key, munge = self.directory / "munge/key", self.directory / "munge"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        # Forced, because munged refuses directories below one that others can write to, such as /tmp.
        words = ["munged", "--force", f"--key-file={key}", f"--socket={munge}/socket"]
        words += [
            f"--pid-file={munge}/pid",
            f"--seed-file={munge}/seed",
            f"--log-file={self.directory}/log/munged",
        ]
        self.exec(LOGIN, words)

    def _controller_answers(self) -> bool:
        return self.exec(LOGIN, ["sinfo"], check=False).returncode == 0

    def _start_node(self, node: str) -> None:
        login = self._init(LOGIN)
        if login is None:
            raise CommandFailed(f"{LOGIN} is off")

        def plug(pid: int) -> None:
            # In login's network but not among its processes, where this process id would mean another one.
            at_login = ["nsenter", "--target", str(login.pid), "--net", "--", "ip", "link"]
            new = ["add", node, "type", "veth", "peer", "name", "eth0", "netns", str(pid)]
            subprocess.run([*at_login, *new], check=True)
            subprocess.run([*at_login, "set", node, "master", "br0", "up"], check=True)

        address = self.settings.address(node)
        self._inits[node] = namespaces.start_host(self.directory, node, address, within=login, plug=plug)
        self.exec(node, ["slurmd", "-N", node])

    # --- commands

    def popen(
        self,
        host: str,
        words: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Command:
        """Start a command on a host, as over ssh, but with this process's environment.

        Args:
            cwd: this process's working directory where None.
            env: added to the environment.
            options: for subprocess.Popen.
        Raises:
            CommandFailed: the host is off.
        """
        init = self._init(host)
        if init is None:
            raise CommandFailed(f"{host} is off")
        configuration = {"SLURM_CONF": str(self.directory / "slurm.conf"), "PATH": install.search_path()}
        environment = {**os.environ, **configuration, **(env or {})}
        return Command(
            namespaces.enter(init, words, cwd or Path.cwd()), text=True, env=environment, **options
        )

    def exec(
        self,
        host: str,
        words: Sequence[str | Path],
        *,
        check: bool = True,
        timeout: float = 60,
        input: str | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end, and return its status and output.

        Raises:
            CommandFailed: the host is off; or, with check, its status is not 0.
            subprocess.TimeoutExpired: it was killed after `timeout` seconds.
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        pipe = subprocess.PIPE
        with self.popen(host, words, cwd=cwd, env=env, stdin=stdin, stdout=pipe, stderr=pipe) as command:
            try:
                out, errors = command.communicate(input, timeout)
            except BaseException:
                command.kill()
                raise
        done = subprocess.CompletedProcess([str(word) for word in words], command.returncode, out, errors)
        if check and done.returncode != 0:
            raise CommandFailed(
                f"{host}: {' '.join(done.args)} ended with {done.returncode}\n{out}{errors}".rstrip()
            )
        return done

    def all_processes_on(self, host: str) -> list[psutil.Process]:
        """List what runs on a host besides the daemons of the cluster; a zombie does not run."""
        init = self._init(host)
        processes = namespaces.processes_within(init) if init is not None else []
        return [process for process in processes if not _is_the_clusters(process)]

    def _init(self, host: str) -> psutil.Process | None:
        """Return the first process of a host, or None if the host is off."""
        if host not in self.settings.hosts:
            raise ValueError(f"no host {host}; there are {', '.join(self.settings.hosts)}")
        known = self._inits.get(host)
        if known is None or not namespaces.alive(known):
            self._inits.pop(host, None)
            known = namespaces.find_host(self.directory, host, self.settings.address(host))
            if known is not None:
                self._inits[host] = known
        return known

    # --- faults

    def cut(self, node: str) -> None:
        """Unplug the node's network; everything on it lives on."""
        self.exec(LOGIN, ["ip", "link", "set", node, "down"])

    def mend(self, node: str) -> None:
        """Plug the node's network in again, and wait until the node serves."""
        self._plug_in(node)
        self.wait_until_ready(node)

    def _plug_in(self, node: str) -> None:
        self.exec(LOGIN, ["ip", "link", "set", node, "up"])
        if self.state(node) not in READY:
            # The controller gave it up: slurmd registers at once, and not only when it is asked again.
            for slurmd in self._slurmds(node):
                with suppress(psutil.NoSuchProcess):
                    slurmd.send_signal(signal.SIGHUP)

    def kill_slurmd(self, node: str) -> None:
        """Kill the node's slurmd, and wait until it is gone; its jobs live on."""
        slurmds = self._slurmds(node)
        for slurmd in slurmds:
            with suppress(psutil.NoSuchProcess):
                slurmd.kill()
        psutil.wait_procs(slurmds, namespaces.GONE_SECONDS)

    def crash(self, node: str) -> None:
        """Power the node off: every process on it dies, and nobody is told."""
        init = self._init(node)
        if init is not None:
            # First, so that dying processes close no connection; and deleted, for the next one takes its name.
            self.exec(LOGIN, ["ip", "link", "delete", node])
            namespaces.kill_host(init)

    def boot(self, node: str) -> None:
        """Start a crashed node, or a killed slurmd, and wait until the node serves."""
        self._switch_on(node)
        self.wait_until_ready(node)

    def _switch_on(self, node: str) -> None:
        if self._init(node) is None:
            self._start_node(node)
        elif not self._slurmds(node):
            self.exec(node, ["slurmd", "-N", node])

    def state(self, node: str) -> str:
        """Return the node's state in sinfo's words; with a star if it does not answer."""
        return self.states()[node]

    def states(self) -> dict[str, str]:
        """Return every node's state in sinfo's words; with a star if it does not answer."""
        # Of all nodes: asked for one alone, slurmctld tells it without working out what is allocated there, and a
        # node that was seen "mixed" stays that for as long as nobody asks for all.
        lines = self.exec(LOGIN, ["sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"]).stdout.splitlines()
        return dict(line.split() for line in lines)

    def wait_until_ready(self, node: str) -> None:
        wait_until(lambda: self._serves(node), READY_SECONDS, f"{node} serves, see {self.directory}/log")

    def _serves(self, node: str) -> bool:
        # Asked directly too, for the controller knows neither of a cut nor of its end at once.
        connect = ["bash", "-c", f": < /dev/tcp/{node}/{NODE_PORT}"]
        return self.state(node) in READY and self.exec(LOGIN, connect, check=False).returncode == 0

    def _slurmds(self, node: str) -> list[psutil.Process]:
        init = self._init(node)
        processes = namespaces.processes_within(init) if init is not None else []
        return [process for process in processes if _name(process) == "slurmd"]

    def settle(self) -> None:
        """Undo what a test did: every node is up, linked and idle, and no job is left."""
        grace = self.settings.spot_grace_seconds
        self.exec(LOGIN, ["scontrol", "update", "PartitionName=spot", f"GraceTime={grace}"])
        jobs = self._jobs()
        if jobs:
            # Killed first, for a job may trap what scancel alone sends; then cancelled, for it may have been requeued.
            self.exec(LOGIN, ["scancel", "--quiet", "--full", "--signal=KILL", *jobs], check=False)
            self.exec(LOGIN, ["scancel", "--quiet", *jobs], check=False)
        for node in self.nodes:
            self._switch_on(node)
            self._plug_in(node)
        wait_until(self._idle, READY_SECONDS, "every node is idle and no job is left")

    def _jobs(self) -> list[str]:
        return self.exec(LOGIN, ["squeue", "-h", "-o", "%A"]).stdout.split()

    def _idle(self) -> bool:
        states = self.states()
        for node, state in states.items():
            # A node is drained when Slurm could not kill a job there in time.
            if state.startswith("drain"):
                self.exec(LOGIN, ["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)
        return set(states.values()) == {"idle"} and not self._jobs() and all(map(self._serves, self.nodes))

    # --- what wanted to leave the cluster

    def outside_attempts(self, *hosts: str) -> list[str]:
        """Tell what these hosts (all nodes, where none is named) tried to reach outside since `forget_attempts()`."""
        attempts = [
            self._attempts.of(host, self.settings.address(host), self._init(host))
            for host in hosts or self.nodes
        ]
        return [attempt for found in attempts for attempt in found]

    def forget_attempts(self) -> None:
        """Count from now on."""
        self._attempts.forget(
            [init for host in self.settings.hosts if (init := self._init(host)) is not None]
        )


def remove_left_behind() -> None:
    """End and delete the clusters of processes that are gone: killed, before they could do it."""
    for directory in PARENT.glob(f"{PREFIX}*"):
        owner = directory.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            Cluster(directory=directory).down()


def _new_directory() -> Path:
    # It names its owner from the first moment on, so that there is none that cannot be told to be left behind.
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=PARENT))


def _name(process: psutil.Process) -> str | None:
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return None


def _is_the_clusters(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.name() in DAEMONS or str(NAME_SERVER) in process.cmdline()
    return True


def main(words: Sequence[str]) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.slurm.cluster", description="A real Slurm on this machine."
    )
    parser.add_argument("--directory", type=Path, default=BY_HAND, help="where its state is (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it, installing Slurm if it is missing")
    for name, value in asdict(DEFAULT).items():
        kind: Any = {"action": "store_true"} if value is False else {"type": int, "default": value}
        up.add_argument(f"--{name.replace('_', '-')}", **kind)
    commands.add_parser("down", help="end it, and delete its directory")
    commands.add_parser("status", help="show its hosts, nodes and jobs")
    run = commands.add_parser("exec", help="run a command on a host")
    run.add_argument("host")
    run.add_argument("words", nargs=argparse.REMAINDER)
    for name in FAULTS:
        commands.add_parser(name).add_argument("node")
    given = parser.parse_args(words)
    if given.command == "up":
        return _up(given.directory, Settings(**{name: getattr(given, name) for name in asdict(DEFAULT)}))
    try:
        cluster = Cluster.running(given.directory)
    except FileNotFoundError:
        print(f"no cluster in {given.directory}", file=sys.stderr)
        return 1
    if given.command == "down":
        cluster.down()
    elif given.command == "status":
        return _status(cluster)
    elif given.command == "exec":
        return cluster.popen(given.host, given.words).wait()
    else:
        getattr(cluster, given.command.replace("-", "_"))(given.node)
    return 0


def _up(directory: Path, settings: Settings) -> int:
    if (directory / "settings.json").exists():
        print(f"a cluster is in {directory} already: take it down first", file=sys.stderr)
        return 1
    if problem := install.cannot_run(settings.accounting):
        print(problem, file=sys.stderr)
        return 1
    cluster = Cluster(settings, directory, dies_with_caller=False)
    try:
        cluster.up()
    except BaseException:
        cluster.down()
        raise
    return _status(cluster)


def _status(cluster: Cluster) -> int:
    for host in cluster.settings.hosts:
        print(f"{host:8}{'off' if cluster._init(host) is None else 'on'}")
    for words in (["sinfo", "-N", "-p", "main", "-o", "%N %T %C %G %E"], ["squeue"]):
        print(cluster.exec(LOGIN, words).stdout, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
