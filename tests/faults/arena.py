"""A run that is continued from step 2, with a save at step 4 in which something goes wrong, over and over."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sft.checkpoint.find import directories, newest
from sft.checkpoint.manifest import NAME, Manifest, read_manifest, verify
from sft.checkpoint.resume import VARIABLE
from sft.config.loader import load_run
from sft.data.prepare import ENTRY, prepare
from sft.events import Event, read_events
from sft.launch.command import process_environment
from sft.launch.local import prepare as write_launch
from sft.plan.hardware import detect
from sft.plan.plan import make_plan
from sft.rundir import RunDirectory
from tests.faults import shim
from tests.faults.zygote import Case, Ended

RANKS = {"single": 1, "ddp": 2, "zero3": 2}
BEGUN, FAULTY, LAST = 2, 4, 6
"""Steps: of the checkpoint that every case begins from, of the save that is watched, of the end."""
FIRST_IMPORTS = ("sft.training.train", "sft.training.trainer", "transformers.models.llama.modeling_llama")
"""What takes long; the rest is learned from the first run."""
A_RANKS_OWN = ("TORCHELASTIC_", "RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_")
Fault = tuple[int, str, int, int]
ENVIRONMENT = """\
import json, os, pathlib, sys
if os.environ.get("RANK", "0") == "0":
    pathlib.Path(sys.argv[1]).write_text(json.dumps(dict(os.environ)))
"""


def settings(model: Path, data: Path, strategy: str) -> dict[str, Any]:
    """Return a run whose saves are small: one LoRA module, no more than one checkpoint kept."""
    return {
        "model_name_or_path": str(model),
        "dataset_name": str(data),
        "assistant_only_loss": True,
        "bf16": False,
        "max_length": 64,
        "max_steps": LAST,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 1,
        "lr_scheduler_type": "cosine",
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 1,
        "total_train_batch_size": 2,
        "report_to": "none",
        "use_peft": True,
        "lora_r": 4,
        "lora_dropout": 0.1,
        "lora_target_modules": ["q_proj"],
        "launch": {"device": "cpu", "strategy": strategy, "processes_per_node": RANKS[strategy]},
    }


@dataclass
class Left:
    """What a case left: what newest() chose and said, and how the ranks ended."""

    ended: Ended
    calls: dict[int, list[shim.Call]]
    events: list[Event]
    chosen: Path | None = None
    step: int | None = None
    said: list[str] = field(default_factory=list)

    @property
    def hit(self) -> shim.Call | None:
        """The call that went wrong; None where it was never made."""
        return next((call for calls in self.calls.values() for call in calls if call.is_hit), None)

    def of_kind(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]


class Zygote:
    """The process that forks the ranks, from outside."""

    def __init__(self, library: Path) -> None:
        self.log = library.parent / f"zygote-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.zygote"],
                env={**os.environ, "LD_PRELOAD": str(library)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def prepare(self, run_yaml: Path, environment: dict[str, str], modules: Sequence[str]) -> None:
        """Have it import what its ranks will need."""
        answer = self._ask(run_yaml=str(run_yaml), environment=environment, modules=list(modules))
        assert answer["threads"] == [], f"what is forked may wait for these threads: {answer['threads']}"

    def run(self, case: Case) -> Ended:
        """Run the ranks of a case to their ends."""
        return Ended(**self._ask(**asdict(case)))

    def _ask(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process that forks the ranks has died\n{self.log.read_text()[-3000:]}"
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


class Arena:
    """One strategy's run directory, put back before each case."""

    def __init__(self, zygote: Zygote, place: Path, strategy: str, model: Path, data: Path) -> None:
        self.strategy, self.ranks = strategy, RANKS[strategy]
        self.run = RunDirectory(place / "run")
        self._zygote = zygote
        self._template, self._traces = place / "template", place / "traces"
        self._environment = self._launch(place, settings(model, data, strategy))
        zygote.prepare(self.run.run_yaml, self._environment, FIRST_IMPORTS)
        self.whole = self._uninterrupted()

    # --- preparations

    def _launch(self, place: Path, asked: dict[str, Any]) -> dict[str, str]:
        """Write what a launch writes, and return what it and accelerate set for its ranks."""
        place.mkdir(parents=True)
        with (place / "run.yaml").open("w", encoding="utf-8") as stream:
            YAML(typ="safe").dump({**asked, "output_dir": str(self.run.output_dir)}, stream)
        loaded = load_run(place / "run.yaml", [], environment={})
        plan = make_plan(loaded, detect())
        ours = write_launch(loaded, plan, written_by="tests.faults").environment
        entry = prepare(loaded, say=lambda _: None)
        (place / "environment.py").write_text(ENVIRONMENT)
        beside = Path(sys.executable).with_name("accelerate-launch")
        subprocess.run(
            [
                beside,
                "--config_file",
                self.run.accelerate_yaml,
                place / "environment.py",
                place / "environment.json",
            ],
            env={**os.environ, **process_environment(loaded.config, plan)},
            check=True,
            capture_output=True,
        )
        found = json.loads((place / "environment.json").read_text())
        theirs = {
            name: value
            for name, value in found.items()
            if os.environ.get(name) != value and not name.startswith(A_RANKS_OWN)
        }
        supervised = {"SFT_SUPERVISED": "1", "SFT_RUN_DIR": str(self.run.output_dir), VARIABLE: ""}
        return {**theirs, **ours, **supervised, ENTRY: str(entry.directory)}

    def _uninterrupted(self) -> dict[str, str]:
        """Train to the end without a fault, keep the first checkpoint to begin from, and what came out."""
        shutil.copytree(self.run.output_dir, self._template)
        ended = self._run(None, "", ["--save_total_limit", "9"])
        assert ended.codes == [0] * self.ranks, self.told()
        whole = self.outcome()
        begun = f"checkpoint-{BEGUN}"
        shutil.copytree(self.run.output_dir / begun, self._template / begun)
        modules = json.loads((self._traces / "modules.json").read_text())
        self._zygote.prepare(self.run.run_yaml, self._environment, modules)
        return whole

    # --- one case

    def put_back(self) -> None:
        """Make the run directory what it was before the case."""
        shutil.rmtree(self.run.output_dir, ignore_errors=True)
        shutil.copytree(self._template, self.run.output_dir)

    def fail(self, rank: int, group: str, number: int, error: int) -> Left:
        """Continue from the first checkpoint; the n-th call of a rank's save at step 4 goes wrong."""
        self.put_back()
        return self._left((rank, group, number, error))

    def watch(self, *words: str, **more: Any) -> Left:
        """Continue from the first checkpoint, and only tell the calls."""
        self.put_back()
        return self._left(None, words, **more)

    def _left(self, fault: Fault | None, words: Sequence[str] = (), **more: Any) -> Left:
        ended = self._run(fault, str(self.run.output_dir / f"checkpoint-{BEGUN}"), words, **more)
        calls = {rank: shim.calls(self._traces / f"rank-{rank}.txt") for rank in range(self.ranks)}
        return Left(ended, calls, list(read_events(self.run.events_jsonl)))

    def look(self, left: Left) -> Left:
        """Do what the next start does first: find where to continue."""
        found = newest(self.run, left.said.append)
        if found is not None:
            left.chosen, left.step = found.path, found.manifest.step
        return left

    def go_on(self, left: Left) -> dict[str, str]:
        """Continue from where the next start does, to the end, and return what came out."""
        ended = self._run(None, str(left.chosen))
        assert ended.codes == [0] * self.ranks, self.told()
        return self.outcome()

    # --- what is there

    def torn(self) -> list[str]:
        """Name what stands under a checkpoint's name and is not whole."""
        found = []
        for path in directories(self.run.output_dir):
            try:
                verify(path, read_manifest(path))
            except ValueError as problem:
                found.append(f"{path.name}: {problem}")
        return found

    def manifest(self, step: int) -> Manifest:
        """Read the manifest of a checkpoint."""
        return read_manifest(self.run.output_dir / f"checkpoint-{step}")

    def outcome(self) -> dict[str, str]:
        """Hash what a run came to: the final weights, and every file of its last checkpoint."""
        weights = sorted(self.run.output_dir.glob("*.safetensors"))
        assert weights, self.told()
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}
        found |= {f"{LAST}/{name}": record.sha256 for name, record in self.manifest(LAST).files.items()}
        manifest = self.manifest(LAST)
        found["tokens"] = f"{manifest.trained_tokens} trained, {manifest.seen_tokens} seen"
        return found

    def content(self) -> str:
        """Hash all that a continuation can see: every file but the account of the run and when a save was made."""
        found = hashlib.sha256()
        for path in sorted(self.run.output_dir.rglob("*")):
            name = path.relative_to(self.run.output_dir).as_posix()
            if not path.is_file() or name.startswith(
                ("_sft/events", "_sft/ranks", "_sft/logs", "_sft/stacks")
            ):
                continue
            data = path.read_bytes()
            if path.name == NAME:
                fields = json.loads(data)
                data = json.dumps(
                    {key: fields[key] for key in fields.keys() - {"created", "digest", "run_id"}},
                    sort_keys=True,
                ).encode()
            found.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
        return found.hexdigest()

    def told(self) -> str:
        """The ends of what the ranks printed."""
        logs = sorted(self.run.logs.glob("*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in [*logs, self._zygote.log])

    # --- the process

    def _run(self, fault: Fault | None, resume: str, words: Sequence[str] = (), **more: Any) -> Ended:
        shutil.rmtree(self._traces, ignore_errors=True)
        self._traces.mkdir()
        case = Case(
            run_yaml=str(self.run.run_yaml),
            environment={**self._environment, VARIABLE: resume},
            ranks=self.ranks,
            traces=str(self._traces),
            words=list(words),
            fault=fault,
            step=FAULTY,
            **more,
        )
        return self._zygote.run(case)
