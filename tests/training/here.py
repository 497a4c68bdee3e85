"""Run the recipe of one rank in this process: what a launch does without a launcher, in a second or two."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.config.loader import LoadedRun, load_run
from sft.events import Event, read_events
from sft.rundir import RunDirectory


@dataclass(frozen=True)
class Trained:
    """A run that ended well, and its trainer."""

    run: RunDirectory
    trainer: Any

    def of_kind(self, kind: str) -> list[Event]:
        return [event for event in read_events(self.run.events_jsonl) if event["event"] == kind]

    @property
    def logs(self) -> list[Event]:
        """The `log` events of steps, without the last one, which sums the run up."""
        return [event for event in self.of_kind("log") if "loss" in event]

    @property
    def losses(self) -> list[float]:
        return [event["loss"] for event in self.logs]

    @property
    def summary(self) -> Event:
        """The `model` event."""
        (found,) = self.of_kind("model")
        return found

    @property
    def trained_tokens(self) -> int:
        return int(self.of_kind("log")[-1]["trained_tokens"])


def read_settings(directory: Path, settings: Mapping[str, Any], *words: str) -> LoadedRun:
    """Write a run file whose output_dir is `directory`/out, and read it as the ranks do."""
    from ruamel.yaml import YAML

    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "run.yaml").open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump({"output_dir": str(directory / "out"), **settings}, stream)
    return load_run(directory / "run.yaml", words, environment={})


def train_here(directory: Path, settings: Mapping[str, Any], *words: str) -> Trained:
    """Train what a run file of these settings says, in this process.

    Raises:
        UserError: as a rank would; `sft.training.failure.explain` turns it into the exit code.
    """
    import sft.training.trainer
    import sft.training.unused
    from sft.training.rank import Rank
    from sft.training.train import train

    loaded = read_settings(directory, settings, *words)
    forget_accelerate()
    kept: list[Any] = []
    build = sft.training.trainer.build_trainer

    def build_and_keep(*arguments: Any, **keywords: Any) -> Any:
        kept.append(build(*arguments, **keywords))
        return kept[0]

    sft.training.trainer.build_trainer = build_and_keep
    # A rank hides packages for the rest of its process; this one has other tests to run.
    leave_out, sft.training.unused.leave_out = sft.training.unused.leave_out, lambda config: None
    try:
        train(loaded, Rank(loaded.config.run), None)
    finally:
        sft.training.trainer.build_trainer = build
        sft.training.unused.leave_out = leave_out
        forget_accelerate()
        gc.collect()
    return Trained(loaded.config.run, kept[0])


def forget_accelerate() -> None:
    """Reset what accelerate keeps of a process, its environment too, so that the next run decides afresh."""
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    PartialState._reset_state()
