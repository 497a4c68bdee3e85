"""Write the events of a run as the recipe would, without training one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sft.events import EventLog
from sft.report.settings import ReportSettings
from sft.rundir import RunDirectory


def settings(*views: str, run_name: str | None = None, **changes: Any) -> ReportSettings:
    """The report settings of a run, as they are where the environment sets nothing."""
    given: dict[str, Any] = {
        "views": views,
        "run_name": run_name,
        "project": "huggingface",
        "trackio_space_id": None,
        "trackio_bucket_id": None,
        "hub_private_repo": None,
        "environment": {},
    }
    return ReportSettings.of(**{**given, **changes})


class WrittenRun:
    """A run directory whose events are written by hand."""

    def __init__(self, output_dir: Path, report: ReportSettings) -> None:
        self.directory = RunDirectory(output_dir)
        self.report = report
        self.log = EventLog(self.directory.events_jsonl)

    def start(self, step: int = 0, run_id: str = "run00001") -> None:
        """A launch begins, from a checkpoint where `step` is not 0."""
        self.log.write(
            "start",
            run_id=run_id,
            world_size=2,
            step=step,
            run_name=self.report.run_name,
            config={"learning_rate": 2e-4, "hub_token": "hf_secret"},
            report=self.report.as_event(),
        )

    def train(self, first: int, last: int, loss: float) -> None:
        """Log every step from `first` to `last`, with `loss` going down by 0.01 a step."""
        for step in range(first, last + 1):
            self.log.write(
                "log", step=step, max_steps=100, epoch=step / 10, loss=loss - step / 100, seconds_left=9.0
            )

    def evaluate(self, step: int, loss: float) -> None:
        """Evaluate at a step."""
        self.log.write("evaluate", step=step, epoch=step / 10, eval_loss=loss)

    def end(self, step: int, status: str = "finished", exit_code: int = 0) -> None:
        """The launch ends."""
        self.log.write("end", status=status, exit_code=exit_code, step=step)

    def notes(self) -> list[str]:
        """The text of every note."""
        from sft.events import read_events

        return [
            event["text"] for event in read_events(self.directory.events_jsonl) if event["event"] == "note"
        ]
