"""A good setup, which a case of the corpus breaks in one place: a model, data, a run file, an environment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sft.check.checks import named
from sft.check.survey import Survey, survey
from sft.plan.hardware import Hardware

NO_GPU = Hardware((), (), 2, 16 << 30)


@dataclass(slots=True)
class Bench:
    """What a case may break.

    Attributes:
        directory: empty but for `model/` and `chats.jsonl`, which are copies of the case's own.
        settings: the run file, which is written when it is looked at.
        text: the run file as text, where `settings` cannot say it.
        words: flags beside the run file.
        hardware: the machine that is seen.
        stack: what is undone after the look: mounts, servers, locks.
    """

    directory: Path
    monkeypatch: pytest.MonkeyPatch
    settings: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    hardware: Hardware = NO_GPU
    on: str = "here"
    in_batch: bool = False
    text: str | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def model(self) -> Path:
        """The model's directory, which may be written to."""
        return self.directory / "model"

    @property
    def data(self) -> Path:
        """The chats, one JSON object a line."""
        return self.directory / "chats.jsonl"

    @property
    def output(self) -> Path:
        """The run's directory, which is not there yet."""
        return self.directory / "out"

    def launch(self, **settings: Any) -> None:
        """Set members of `launch:`."""
        self.settings["launch"] = {**self.settings.get("launch", {}), **settings}

    def variable(self, name: str, value: str) -> None:
        """Set a variable of the environment."""
        self.monkeypatch.setenv(name, value)

    def edit(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change a JSON file of the model in place."""
        path = self.model / name
        values = json.loads(path.read_text(encoding="utf-8"))
        change(values)
        path.write_text(json.dumps(values), encoding="utf-8")

    def look(self, checks: Sequence[str] | None = None) -> Survey:
        """Write the run file and look at it, as `sft check` does.

        Raises:
            UserError: the run file cannot be read.
        """
        run = self.directory / "run.yaml"
        run.write_text(json.dumps(self.settings) if self.text is None else self.text, encoding="utf-8")
        wanted = named() if checks is None else named(checks)
        return survey(run, self.words, self.hardware, checks=wanted, in_batch=self.in_batch, on=self.on)


@dataclass(frozen=True, slots=True)
class Broken:
    """One setup that must be told before a launch.

    Attributes:
        name: what is wrong, in words.
        source: where such a failure was reported: the address of an issue, a forum's thread, a manual.
        says: what the finding must say: the cause by its name.
        check: the check that tells it; "" where the run file cannot be read at all, or not planned.
    """

    name: str
    source: str
    says: str
    check: str
    build: Callable[[Bench], object]


def make_bench(directory: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Copy the parts into a directory, and write nothing else."""
    shutil.copytree(model, directory / "model")
    shutil.copy(data, directory / "chats.jsonl")
    settings = {
        "model_name_or_path": str(directory / "model"),
        "dataset_name": str(directory / "chats.jsonl"),
        "assistant_only_loss": True,
        "max_length": 128,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "output_dir": str(directory / "out"),
        "data_cache": str(directory / "prepared"),
    }
    return Bench(directory, monkeypatch, settings)


def told(bench: Bench, case: Broken) -> str | None:
    """Look at a broken setup; return None if it is told as it must be, else what was said instead."""
    from sft.errors import UserError

    try:
        found = [
            (finding.check, str(finding)) for finding in bench.look().findings if finding.gravity != "note"
        ]
    except UserError as refusal:
        found = [("", str(problem)) for problem in refusal.problems]
    if any(check == case.check and case.says in text for check, text in found):
        return None
    return "\n".join(f"[{check}] {text}" for check, text in found) or "nothing"
