"""What became of runs, side by side: the metric before and after, the time, where the adapter lies. Read of the run directories.

The metrics are those of `_sft/eval.json`, which the evaluation after the training leaves; of several, the last that
`eval_metrics` lists.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sft.config.yaml import read_entries
from sft.errors import ExitCode, UserError
from sft.events import Event, read_events
from sft.launch.lock import holder_of
from sft.launch.queue import read_book
from sft.launch.said import read_object
from sft.report.lines import clock, number
from sft.rundir import RunDirectory

NOTHING = "-"
COLUMNS = ("task", "metric", "base", "tuned", "time", "adapter", "state")
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of the table.

    Attributes:
        task: the run as it was named on the command line.
        metric: which one `base` and `tuned` are of; None where nothing was evaluated.
        seconds: from the ranks' start to their end, over all starts; None before the first.
        adapter: where it lies, or the model, where all of it was trained; None where training has not come to an end.
        state: finished, stopped or failed, running, submitted, or not started.
        exit_code: of the last launch, once it has ended.
    """

    task: str
    output_dir: str
    metric: str | None = None
    base: float | None = None
    tuned: float | None = None
    seconds: float | None = None
    adapter: str | None = None
    state: str = "not started"
    exit_code: int | None = None
    split: str | None = None
    samples: int | None = None

    def ended(self, code: int | None) -> Result:
        """Say how its launch ended, where the run directory cannot: a refusal before the training leaves nothing there."""
        if code is None or code == (self.exit_code or 0):
            return self
        return replace(self, exit_code=code, state="stopped" if code == ExitCode.STOPPED else "failed")

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)

    def cells(self) -> list[str]:
        """Return its line of the table."""
        state = self.state if self.exit_code in (None, 0) else f"{self.state} ({self.exit_code})"
        return [
            self.task,
            self.metric or NOTHING,
            _written(self.base),
            _written(self.tuned),
            NOTHING if self.seconds is None else clock(self.seconds),
            NOTHING if self.adapter is None else _short(self.adapter),
            state,
        ]


def result_of(task: str, run: RunDirectory) -> Result:
    """Look at one run directory, as far as it is there."""
    outcome = read_object(run.outcome_json) or {}
    code = outcome.get("exit_code")
    said = read_object(run.kit / "eval.json") or {}
    metric = _metric(run, said)
    return Result(
        task=task,
        output_dir=str(run.output_dir),
        metric=metric,
        base=_value(said.get("base"), metric),
        tuned=_value(said.get("tuned"), metric),
        seconds=_seconds(read_events(run.events_jsonl)),
        adapter=_adapter(run, said),
        state=_state(run, outcome),
        exit_code=code if isinstance(code, int) else None,
        split=_text(said.get("split")),
        samples=said["samples"] if isinstance(said.get("samples"), int) else None,
    )


def table(results: Sequence[Result]) -> list[str]:
    """Set results in columns; numbers stand to the right."""
    rows = [list(COLUMNS), *(result.cells() for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    right = {COLUMNS.index(name) for name in ("base", "tuned", "time")}
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _metric(run: RunDirectory, said: dict[str, Any]) -> str | None:
    """Name the metric to show: the last of `eval_metrics` that was measured, a function by its own name."""
    measured = [name for side in ("tuned", "base") if isinstance(said.get(side), dict) for name in said[side]]
    if not measured:
        return None
    for wanted in reversed(_wanted(run)):
        for name in (wanted, wanted.rpartition(":")[2]):
            if name in measured:
                return name
    return str(measured[-1])


def _wanted(run: RunDirectory) -> list[str]:
    """Return `eval_metrics` of the run file as it was launched; what cannot be read asks for none."""
    try:
        entries, _ = read_entries(run.run_yaml)
    except UserError:
        return []
    value = entries["eval_metrics"].value if "eval_metrics" in entries else []
    return [str(name) for name in value] if isinstance(value, list) else [str(value)]


def _value(side: Any, metric: str | None) -> float | None:
    return number(side.get(metric)) if isinstance(side, dict) and metric is not None else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(events: Iterable[Event]) -> float | None:
    """Add up what passed between the starts of a run and their ends, or the last word of those that were killed."""
    total: float | None = None
    begun: float | None = None
    last = 0.0
    for event in events:
        moment = number(event.get("time"))
        if moment is None:
            continue
        if event.get("event") == "start":
            total = (total or 0.0) + (last - begun if begun is not None else 0.0)
            begun = moment
        last = moment
        if event.get("event") == "end" and begun is not None:
            total, begun = (total or 0.0) + moment - begun, None
    return total if begun is None else (total or 0.0) + last - begun


def _adapter(run: RunDirectory, said: dict[str, Any]) -> str | None:
    """Return where the result lies. A name that the evaluation left counts only while something is there."""
    named = said.get("adapter")
    if isinstance(named, str) and Path(named).exists():
        return str(Path(named).absolute())
    files = ("adapter_model.safetensors", *MODEL_FILES)
    return str(run.output_dir) if any((run.output_dir / name).is_file() for name in files) else None


def _state(run: RunDirectory, outcome: dict[str, Any]) -> str:
    """Say how it stands by the files alone: `sft status` asks the platform too."""
    if isinstance(outcome.get("status"), str):
        return str(outcome["status"])
    if holder_of(run) is not None:
        return "running"
    if run.events_jsonl.exists():
        return "ended without a word"
    return "submitted" if read_book(run).jobs else "not started"


def _written(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING if value is None else str(value)
    return f"{value:.4g}"


def _short(path: str) -> str:
    """Write a path from the working directory where it lies below it."""
    here = os.getcwd()
    return os.path.relpath(path, here) if Path(path).is_relative_to(here) else path
