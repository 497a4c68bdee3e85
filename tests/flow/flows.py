"""Run the flow as a person would, with a datastore of its own, and read what it left."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parents[2]
FLOW = REPOSITORY / "launch" / "metaflow_flow.py"
SECONDS = 240.0

READ = """
import json, sys
from metaflow import Run, load_model, namespace
namespace(None)
run, place = Run(sys.argv[1]), sys.argv[2]
data = run["train"].task.data
found = {name: getattr(data, name, None) for name in
         ("base", "adapter", "model", "run_file", "metrics", "results", "checkpoints")}
for name in ("adapter", "model"):
    if found[name]:
        load_model(found[name], f"{place}/{name}")
found["attempts"] = run["train"].task.current_attempt + 1
print(json.dumps(found, default=str))
"""


def environment(place: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a flow whose datastore lies in `place`; Metaflow has no user called root."""
    metaflow = {
        "METAFLOW_USER": "tester",
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(place),
        "METAFLOW_HOME": str(place / "metaflow-home"),
    }
    return {**os.environ, **metaflow, **(more or {})}


def write_run_file(path: Path, settings: Mapping[str, Any]) -> Path:
    with path.open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(dict(settings), stream)
    return path


class Flow:
    """One run of the flow, in the background until it is waited for."""

    def __init__(self, place: Path, *words: str, more: Mapping[str, str] | None = None) -> None:
        self.place, self._environment = place, environment(place, more)
        self._log = place / f"flow-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(FLOW), *words],
                cwd=place,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def run_id(self) -> str:
        return re.findall(r"run-id (\d+)", self.said)[0]

    def until(self, pattern: str, seconds: float = SECONDS) -> re.Match[str]:
        """Wait until the flow has said something."""
        due = time.monotonic() + seconds
        while (found := re.search(pattern, self.said)) is None:
            assert self.process.poll() is None, (
                f"ended with {self.process.returncode} before {pattern}:\n{self.said}"
            )
            assert time.monotonic() < due, f"not said: {pattern}\n{self.said}"
            time.sleep(0.05)
        return found

    def pid_of(self, step: str) -> int:
        """The process of the step's newest attempt."""
        self.until(rf"/{step}/\d+ \(pid \d+\)\] Task is starting")
        return int(re.findall(rf"/{step}/\d+ \(pid (\d+)\)\] Task is starting", self.said)[-1])

    def end(self, code: int = 0) -> str:
        """Wait for its end, and return what it said."""
        try:
            self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end in {SECONDS} s:\n{self.said}") from None
        assert self.process.returncode == code, f"ended with {self.process.returncode}:\n{self.said}"
        return self.said

    def kill(self) -> None:
        """End it and its steps, whatever they do."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def read(self, copies: Path) -> dict[str, Any]:
        """Read the artifacts of the training, and load the models into `copies`."""
        for name in ("adapter", "model"):
            (copies / name).mkdir(parents=True)
        done = subprocess.run(
            [sys.executable, "-c", READ, f"SFTFlow/{self.run_id}", str(copies)],
            cwd=self.place,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def card(self, target: Path) -> str:
        """Fetch the card as a page."""
        done = subprocess.run(
            [sys.executable, str(FLOW), "card", "get", f"{self.run_id}/show", "--id", "run", str(target)],
            cwd=self.place,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return shown_by(target)


def shown_by(page: Path) -> str:
    """The components of a card: its page holds them as JSON in base64, and draws them in the browser."""
    parts = re.findall(r'__MF_DATA__\[[^\]]+\]\s*=\s*"([^"]+)"', page.read_text(encoding="utf-8"))
    return "".join(base64.b64decode(part).decode("utf-8") for part in parts)
