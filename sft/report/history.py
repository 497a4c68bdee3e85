"""Turn events into the rows that every view shows, with the metric names of transformers' callbacks.

A run that was restarted from a checkpoint has some steps twice in its events. The last attempt counts:
a `start` at step S takes back the rows after S.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sft.events import Event
from sft.report.settings import ReportSettings

_NOT_METRICS = frozenset({"time", "event", "step", "max_steps", "seconds_left"})
# What transformers' WandbCallback keeps out of the charts, since they come once, at the end.
_SUMMARY = frozenset(
    {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
)
_NOT_FINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


@dataclass(slots=True)
class Row:
    """What is known at one step. `summary` holds the values that describe the whole run."""

    step: int
    time: float
    metrics: dict[str, float] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)


def metric_name(key: str) -> str:
    """Rename a logged key. Source: `rewrite_logs` in transformers.integrations.integration_utils."""
    for prefix in ("eval", "test"):
        if key.startswith(f"{prefix}_"):
            return f"{prefix}/{key[len(prefix) + 1 :]}"
    return f"train/{key}"


def row_of(event: Event) -> Row | None:
    """Return the row of a log or evaluate event, or None for any other event."""
    if event["event"] not in ("log", "evaluate"):
        return None
    row = Row(step=int(event["step"]), time=float(event["time"]))
    for key, value in event.items():
        number = _NOT_FINITE.get(value) if isinstance(value, str) else value
        if key in _NOT_METRICS or isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if key in _SUMMARY:
            row.summary[key] = number
        else:
            row.metrics[metric_name(key)] = number
    return row


class History:
    """A run as its events tell it so far."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._rows: dict[int, Row] = {}
        self.settings: ReportSettings | None = None
        self.run_id: str | None = None
        self.config: dict[str, Any] = {}
        self.end: Event | None = None
        for event in events:
            self.add(event)

    @property
    def rows(self) -> list[Row]:
        """The rows in order of step, one a step."""
        return [self._rows[step] for step in sorted(self._rows)]

    def add(self, event: Event) -> None:
        """Take in the next event."""
        if event["event"] == "start":
            self._start(event)
        elif event["event"] == "end":
            self.end = event
        elif (row := row_of(event)) is not None:
            held = self._rows.setdefault(row.step, row)
            held.time = row.time
            held.metrics.update(row.metrics)
            held.summary.update(row.summary)

    def _start(self, event: Event) -> None:
        self.end = None
        self.config = event["config"]
        self._rows = {step: row for step, row in self._rows.items() if step <= int(event["step"])}
        if self.run_id is None:
            # Its first start is what makes it one run: later ones do not move it elsewhere.
            self.run_id = str(event["run_id"])
            self.settings = ReportSettings.from_event(event["report"])
