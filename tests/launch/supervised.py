"""Start the supervisor in a process of its own, as `sft launch` is, and see what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from sft.rundir import RunDirectory

FAKE_RANK = Path(__file__).with_name("fake_rank.py")
# Starts two ranks as a launcher would, and sees nothing of how they fare.
TWO_RANKS = """\
import os, subprocess, sys
ranks = [subprocess.Popen(sys.argv[1:], env=os.environ | {"RANK": r, "WORLD_SIZE": "2"}) for r in "01"]
sys.exit(max(rank.wait() for rank in ranks))
"""
ACCELERATE = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
use_cpu: true
num_processes: 2
num_machines: 1
machine_rank: 0
main_process_port: 0
mixed_precision: 'no'
"""
DRIVER = """\
import json, os, sys, time
from pathlib import Path
from sft.deadline import Deadline
from sft.launch.supervise import supervise
from sft.rundir import RunDirectory
from sft.config.limits import LimitsConfig
command, directory, options = json.loads(sys.argv[1])
options["limits"] = LimitsConfig(**options.get("limits", {}))
if (seconds := options.pop("deadline_seconds", None)) is not None:
    options["deadline"] = Deadline(time.monotonic() + seconds, "launch.time_limit 1")
sys.exit(supervise(command, RunDirectory(Path(directory)), dict(os.environ), **options))
"""


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alone(*behaviours: str) -> list[str]:
    """Command one rank, with no launcher between."""
    return [sys.executable, str(FAKE_RANK), *behaviours]


def two(*behaviours: str) -> list[str]:
    """Command two ranks, with a launcher that imports nothing."""
    return [sys.executable, "-c", TWO_RANKS, *alone(*behaviours)]


def in_pairs(directory: Path, *behaviours: str) -> list[str]:
    """Command two ranks through the real `accelerate launch`, which is torchrun inside."""
    file = directory / "accelerate.yaml"
    file.write_text(ACCELERATE)
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    return [*accelerate, "--config_file", str(file), str(FAKE_RANK), *behaviours]


@dataclass
class Supervised:
    """One supervisor that runs, and then what it left."""

    directory: Path
    command: Sequence[str]
    ranks: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.run = RunDirectory(self.directory)
        told = json.dumps([list(self.command), str(self.directory), {"ranks": self.ranks, **self.options}])
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-c", DRIVER, told],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def ranks_began(self) -> Supervised:
        """Wait until every rank has said that it runs."""
        wait_for(lambda: all(self.run.rank_state(rank).exists() for rank in range(self.ranks)))
        return self

    def signal(self, number: signal.Signals) -> None:
        """Signal the supervisor alone."""
        os.kill(self.process.pid, number)

    def end(self, seconds: float = 60.0) -> tuple[int, list[str]]:
        """Wait for the end, see that nothing outlives it, and return the exit code and what was shown.

        The directory of the run is written as RUN.
        """
        shown = self.process.communicate(timeout=seconds)[1]
        assert self.survivors() == []
        return self.process.returncode, shown.replace(str(self.directory), "RUN").splitlines()

    def pids(self) -> dict[int, list[int]]:
        """Return the pids of each rank, of its data worker, and of its launcher."""
        return {
            rank: [int(pid) for pid in (self.run.kit / f"pids-{rank}").read_text().split()]
            for rank in range(self.ranks)
        }

    def survivors(self) -> list[str]:
        """List the live processes that belong to this run, by the directory in their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("SFT_RUN_DIR") == str(self.directory)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {process.cmdline()}")
            except psutil.Error:
                continue
        return found

    def outcome(self) -> dict[str, Any]:
        """Read the outcome."""
        outcome: dict[str, Any] = json.loads(self.run.outcome_json.read_text())
        return outcome

    def last_event(self) -> dict[str, Any]:
        """Read the last event, without its time."""
        event: dict[str, Any] = json.loads(self.run.events_jsonl.read_text().splitlines()[-1])
        del event["time"]
        return event
