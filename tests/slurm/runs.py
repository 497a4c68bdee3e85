"""Runs that are submitted to the cluster as a user submits them, from its login node."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from sft.events import Event, read_events
from sft.launch.queue import JobBook, read_book
from sft.rundir import RunDirectory
from tests import tiny
from tests.checkpoint.exact import FSDP_ON_CPU_ENVIRONMENT
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import job_record
from tests.slurm.settings import LOGIN

SFT = str(Path(sys.executable).with_name("sft"))
SLOW = '''
import os, time
from transformers import TrainerCallback

class Slow(TrainerCallback):
    """Steps that take as long as a larger model's; with SLOW_ONCE, only until the run is resumed."""
    def on_train_begin(self, args, state, control, **kwargs):
        resumed = state.global_step > 0 and "SLOW_ONCE" in os.environ
        self.seconds = 0.0 if resumed else float(os.environ.get("SLOW_SECONDS", "0"))

    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(self.seconds)
'''


@dataclass(frozen=True)
class Submitted:
    """A run on the cluster."""

    cluster: Cluster
    run_file: Path
    run: RunDirectory
    environment: dict[str, str] = field(default_factory=dict)

    def sft(self, *words: str, check: bool = True) -> Any:
        """Call the kit on the login node."""
        return self.cluster.exec(LOGIN, [SFT, *words], env=self.environment, check=check)

    def submit(self, *words: str) -> str:
        """Submit it, and return its job."""
        return str(self.sft("launch", str(self.run_file), "--on", "slurm", *words).stdout.split()[-1])

    @property
    def events(self) -> list[Event]:
        return list(read_events(self.run.events_jsonl))

    @property
    def losses(self) -> dict[int, float]:
        """The loss of each step; a step that was trained twice has come to the same one."""
        found: dict[int, float] = {}
        for event in self.events:
            if event["event"] == "log" and "loss" in event:
                assert found.setdefault(event["step"], event["loss"]) == event["loss"]
        return found

    @property
    def book(self) -> JobBook:
        return read_book(self.run)

    def log(self) -> str:
        """What the job has printed, over all its starts."""
        return "".join(path.read_text() for path in sorted(self.run.logs.glob("job-*.log")))

    def steps(self) -> int:
        """How many steps have been done and told."""
        return max((event["step"] for event in self.events if event["event"] == "log"), default=0)

    def until(self, happened: Callable[[], object], seconds: float, what: str) -> None:
        """Wait for something; shows the log where it does not come."""
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, f"no {what} within {seconds} s\n{self.log()}"
            time.sleep(0.3)

    def ended(self, job: str, seconds: float = 120) -> dict[str, str]:
        """Wait until the job is over for good, and return what Slurm says of it."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
        self.until(lambda: job_record(self.cluster, job)["JobState"] in over, seconds, "end of the job")
        return job_record(self.cluster, job)

    def strays(self) -> list[str]:
        """List what still runs of the job on the nodes."""
        found = []
        for node in self.cluster.nodes:
            for process in self.cluster.all_processes_on(node):
                with suppress(psutil.NoSuchProcess):  # it has ended since
                    found.append(f"{node}: {' '.join(process.cmdline())}")
        return found


def submitted(
    cluster: Cluster,
    place: Path,
    model: Path,
    *,
    nodes: int = 2,
    processes: int = 2,
    strategy: str = "ddp",
    name: str = "run",
    slow_seconds: float = 0.0,
    environment: Mapping[str, str] | None = None,
    launch: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Submitted:
    """Write a run for CPU processes on the cluster's nodes; nothing is submitted yet."""
    from ruamel.yaml import YAML

    place.mkdir(parents=True, exist_ok=True)
    data = tiny.write_rows(place / "train.jsonl", tiny.chats(72))
    (place / "slow.py").write_text(SLOW)
    run = {
        "model_name_or_path": str(model),
        "dataset_name": str(data),
        "output_dir": str(place / name),
        "assistant_only_loss": True,
        "bf16": False,
        "max_length": 128,
        "max_steps": 8,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 4,
        "learning_rate": 2e-3,
        "per_device_train_batch_size": 1,
        "total_train_batch_size": 4,
        "report_to": "none",
        "callbacks": [f"{place / 'slow.py'}:Slow"],
        **settings,
        "launch": {
            "device": "cpu",
            "strategy": strategy,
            "nodes": nodes,
            "processes_per_node": processes,
            "time_limit": "00:05:00",
            **(launch or {}),
            "slurm": {"cpus_per_task": 4, **(launch or {}).get("slurm", {})},
        },
    }
    run_file = place / f"{name}.yaml"
    with run_file.open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(run, stream)
    own = {
        "SFT_CACHE": str(place / "cache"),
        "HF_HUB_OFFLINE": "1",
        "SLOW_SECONDS": str(slow_seconds),
        **(FSDP_ON_CPU_ENVIRONMENT if strategy == "fsdp2" else {}),
        **(environment or {}),
    }
    return Submitted(cluster, run_file, RunDirectory(place / name), own)


def weights(run: RunDirectory) -> dict[str, bytes]:
    """Read the weights that a run has left."""
    files: Iterable[Path] = sorted(run.output_dir.glob("*.safetensors"))
    found = {path.name: path.read_bytes() for path in files}
    assert found, f"no weights in {run.output_dir}"
    return found
