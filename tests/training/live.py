"""A real `sft launch` that is still running: who belongs to it, where it is, and signals to any of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from sft.events import Event, read_events
from sft.parent import bind_to
from sft.rundir import RunDirectory
from tests.training.launching import SFT

# Loaded by the ranks as a callback of the user's own: makes the short phases long enough to be hit.
SLOW = '''\
"""Take some time in evaluations and saves."""

import time

from transformers import TrainerCallback


class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        time.sleep(0.02)

    def on_prediction_step(self, args, state, control, **_):
        time.sleep(0.05)
'''


class Live:
    """One launch in a session of its own, as under a terminal."""

    def __init__(
        self,
        output_dir: Path,
        settings: dict[str, Any],
        *words: str,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.run = RunDirectory(output_dir)
        self.file = output_dir.parent / f"{output_dir.name}.yaml"
        self.file.write_text(json.dumps({**settings, "output_dir": str(output_dir)}))
        self._said = output_dir.parent / f"{output_dir.name}.stderr"
        # What another launch into this directory has left is not this one's.
        self._before = len(self.events) if self.run.events_jsonl.exists() else 0
        for path in self.run.ranks.glob("rank-*.json"):
            path.unlink()
        self.began = time.monotonic()
        parent = os.getpid()
        with self._said.open("w") as stderr:
            self.process = subprocess.Popen(
                [*SFT, "launch", str(self.file), *words],
                env={**os.environ, **(environment or {})},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=lambda: bind_to(parent),
            )

    # --- where it is

    @property
    def events(self) -> list[Event]:
        return list(read_events(self.run.events_jsonl))

    @property
    def new_events(self) -> list[Event]:
        return self.events[self._before :]

    def notes(self) -> list[str]:
        return [event["text"] for event in self.new_events if event["event"] == "note"]

    def said(self) -> str:
        return self._said.read_text()

    def until(self, condition: Callable[[], Any], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended early\n{self.said()}"
            assert time.monotonic() < deadline, f"waited {seconds} s in vain\n{self.said()}"
            time.sleep(0.005)

    def until_step(self, step: int) -> None:
        self.until(lambda: any(e["event"] == "log" and e.get("step", 0) >= step for e in self.new_events))

    def states(self) -> dict[int, dict[str, Any]]:
        found = {}
        for path in self.run.ranks.glob("rank-*.json"):
            try:
                found[int(path.stem.removeprefix("rank-"))] = json.loads(path.read_text())
            except (ValueError, FileNotFoundError):
                continue
        return found

    def until_phase(self, *names: str, ranks: int = 2) -> None:
        self.until(
            lambda: (
                len(self.states()) == ranks
                and all(state["phase"] in names for state in self.states().values())
            )
        )

    def until_process(self, word: str) -> None:
        self.until(lambda: self.having(word))

    # --- who belongs to it

    def family(self) -> list[psutil.Process]:
        """Everyone of the launch, `sft launch` itself first."""
        try:
            return [
                psutil.Process(self.process.pid),
                *psutil.Process(self.process.pid).children(recursive=True),
            ]
        except psutil.NoSuchProcess:
            return []

    def having(self, word: str) -> list[psutil.Process]:
        """Those of the family whose command line has a word."""
        found = []
        for process in self.family():
            try:
                if word in process.cmdline():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def rank(self, index: int) -> int:
        return int(self.states()[index]["pid"])

    def workers(self) -> list[psutil.Process]:
        """The DataLoader workers of all ranks."""
        return [
            child
            for state in self.states().values()
            for child in psutil.Process(state["pid"]).children()
            if "sft.training.train" in child.cmdline()
        ]

    def signal_all(self, number: signal.Signals) -> int:
        """Signal every process, as scancel does; return how many there were."""
        family = self.family()
        for process in family:
            try:
                process.send_signal(number)
            except psutil.Error:
                continue
        return len(family)

    # --- how it ends

    def end(self, seconds: float = 180) -> int:
        """Wait for the end; nothing of it may outlive it."""
        family = self.family()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs\n{self.said()}\n{self.states()}") from None
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive, f"these outlive it: {alive}"
        return code

    def kill(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def outcome(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run.outcome_json.read_text())
        return found

    def checkpoints(self) -> list[int]:
        """The steps of what stands under a checkpoint's name; each has its manifest."""
        found = []
        for path in self.run.output_dir.glob("checkpoint-*"):
            assert (path / "manifest.json").exists(), f"{path} is torn"
            assert (path / "trainer_state.json").exists(), f"{path} is torn"
            found.append(int(path.name.removeprefix("checkpoint-")))
        return sorted(found)

    def tracebacks(self) -> list[str]:
        """What any process of the launch said of an error."""
        logs = [*self.run.logs.glob("*.log")]
        return [line for log in logs for line in re.findall(r"^\w*Error: .*$", log.read_text(), re.MULTILINE)]
