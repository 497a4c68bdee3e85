"""The three views of a run's events: W&B, TensorBoard, trackio.

Each is fed rows in order, by the process beside a live run (`sft.report.live`) and by `sft sync` alike,
so that both look the same. Whatever an earlier session delivered is not delivered twice. The libraries
are imported when a view starts; none of them needs torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sft.report.history import Row
from sft.report.settings import ReportSettings
from sft.rundir import RunDirectory

INIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewedRun:
    """What a view needs to know before the first row. `live`: the run trains on this machine now."""

    directory: RunDirectory
    run_id: str
    settings: ReportSettings
    config: Mapping[str, Any]
    live: bool


class Tracker(Protocol):
    """One view. `start` is called first and `finish` last, each once."""

    @property
    def location(self) -> str:
        """The run's URL, directory or database, for a person to open."""

    def start(self, run: ViewedRun) -> None:
        """Open the run, or open it again."""

    def log(self, row: Row) -> None:
        """Show a row; several may come for one step, and steps never go back but after `rewind`."""

    def rewind(self, step: int) -> None:
        """Take back the rows after `step`, as far as the view can: the run was restarted from there."""

    def finish(self, exit_code: int) -> None:
        """Deliver what is left and close the run."""


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Mask tokens and keys in a run's config, as transformers' `TrainingArguments.to_dict` does."""
    return {
        key: f"<{key.upper()}>" if key.lower().endswith(("_token", "_key", "_secret", "_password")) else value
        for key, value in config.items()
    }


class WandbTracker:
    """A W&B run. Its history cannot be rewritten: a step that the server has keeps its first values.

    The server itself says which step comes next, so no cursor has to be kept here.
    """

    def __init__(self) -> None:
        self._run: Any = None
        self._next_step = 0

    @property
    def location(self) -> str:
        return str(self._run.url)

    def start(self, run: ViewedRun) -> None:
        import wandb

        names = run.settings.wandb_names(os.environ)
        run.directory.kit.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            id=run.run_id,
            resume="allow",
            dir=run.directory.kit,
            project=names["project"],
            entity=names.get("entity"),
            name=names.get("name"),
            group=names.get("group"),
            job_type=names.get("job_type"),
            tags=names["tags"].split(",") if "tags" in names else None,
            notes=names.get("notes"),
            settings=wandb.Settings(
                **({"base_url": names["base_url"]} if "base_url" in names else {}),
                console="off",
                init_timeout=INIT_SECONDS,
                silent=not run.live,
                # The machine that syncs later is not the one that trained.
                x_disable_meta=not run.live,
                x_disable_stats=not run.live,
                x_stats_pid=os.getppid(),
            ),
        )
        self._next_step = int(self._run.starting_step)
        self._run.config.update(without_secrets(run.config), allow_val_change=True)
        self._run.define_metric("train/global_step")
        self._run.define_metric("*", step_metric="train/global_step", step_sync=True)

    def log(self, row: Row) -> None:
        if row.summary:
            self._run.summary.update(row.summary)
        if row.metrics and row.step >= self._next_step:
            self._next_step = row.step
            values = {**row.metrics, "train/global_step": row.step, "_timestamp": row.time}
            self._run.log(values, step=row.step)

    def rewind(self, step: int) -> None:
        """Leave what was delivered; `log` passes over the steps that are repeated."""

    def finish(self, exit_code: int) -> None:
        if exit_code == 75:
            self._run.mark_preempting()
        self._run.finish(exit_code=exit_code)


class TensorboardTracker:
    """One event file in the logging directory, written anew by each session from all of the events."""

    def __init__(self) -> None:
        self._writer: Any = None
        self._directory = Path()

    @property
    def location(self) -> str:
        return str(self._directory)

    def start(self, run: ViewedRun) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

        given = run.settings.tensorboard_directory
        self._directory = Path(given) if given else run.directory.output_dir / "runs" / run.run_id
        suffix = f".{run.run_id}"
        for earlier in self._directory.glob(f"events.out.tfevents.*{suffix}"):
            earlier.unlink()
        self._writer = EventFileWriter(str(self._directory), flush_secs=5, filename_suffix=suffix)
        self._restart_at(0)
        self._text("args", json.dumps(without_secrets(run.config), indent=2, default=str))

    def log(self, row: Row) -> None:
        scalars = {**row.metrics, **{f"train/{key}": value for key, value in row.summary.items()}}
        self._add(row.step, row.time, [{"tag": tag, "simple_value": value} for tag, value in scalars.items()])

    def rewind(self, step: int) -> None:
        self._restart_at(step + 1)

    def finish(self, exit_code: int) -> None:
        self._writer.close()

    def _restart_at(self, step: int) -> None:
        """Make TensorBoard drop what it read of this step and later, also in a window that is open."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        self._writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def _text(self, tag: str, text: str) -> None:
        from tensorboard.plugins.text.metadata import create_summary_metadata  # type: ignore[import-untyped]
        from tensorboard.util.tensor_util import make_tensor_proto  # type: ignore[import-untyped]

        metadata = create_summary_metadata(display_name=tag, description="")
        self._add(0, time.time(), [{"tag": tag, "metadata": metadata, "tensor": make_tensor_proto([text])}])

    def _add(self, step: int, wall_time: float, values: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        summary = Summary(value=[Summary.Value(**value) for value in values])
        self._writer.add_event(Event(wall_time=wall_time, step=step, summary=summary))


class TrackioTracker:
    """A trackio run. A local one is written anew by each session; on a Space only later steps are added."""

    def __init__(self) -> None:
        self._run: Any = None
        self._viewed: ViewedRun | None = None
        self._written: list[Row] = []
        self._next_step = 0

    @property
    def location(self) -> str:
        assert self._viewed is not None
        from trackio.utils import TRACKIO_DIR

        settings = self._viewed.settings
        if settings.trackio_space_id:
            return f"https://huggingface.co/spaces/{settings.trackio_space_id}"
        return f"{TRACKIO_DIR}: project {settings.trackio_project}, run {self._name}"

    @property
    def _name(self) -> str:
        assert self._viewed is not None
        # Two runs of one project may share a run_name; trackio would resume one into the other.
        name = self._viewed.settings.run_name or self._viewed.directory.output_dir.resolve().name
        return f"{name}-{self._viewed.run_id}"

    def start(self, run: ViewedRun) -> None:
        self._viewed = run
        self._open()

    def _open(self) -> None:
        import trackio

        assert self._viewed is not None
        settings = self._viewed.settings
        remote = settings.trackio_space_id or os.environ.get("TRACKIO_SPACE_ID")
        remote = remote or os.environ.get("TRACKIO_SERVER_URL")
        if not remote:
            # A project that is not there yet is a ValueError.
            with contextlib.suppress(ValueError):
                for run in trackio.Api().runs(settings.trackio_project):
                    if run.name == self._name:
                        run.delete()
        self._run = trackio.init(
            project=settings.trackio_project,
            name=self._name,
            space_id=settings.trackio_space_id,
            bucket_id=settings.trackio_bucket_id,
            private=settings.trackio_private,
            config=without_secrets(self._viewed.config),
            resume="allow",
            embed=False,
            auto_log_gpu=None if self._viewed.live else False,
            auto_log_cpu=None if self._viewed.live else False,
        )
        # trackio has no public word for the step at which a resumed run goes on.
        self._next_step = int(self._run._next_step) if remote else 0

    def log(self, row: Row) -> None:
        self._written.append(row)
        if row.metrics and row.step >= self._next_step:
            self._run.log({**row.metrics, "train/global_step": row.step}, step=row.step)

    def rewind(self, step: int) -> None:
        import trackio

        kept = [row for row in self._written if row.step <= step]
        trackio.finish()
        self._written = []
        self._open()
        for row in kept:
            self.log(row)

    def finish(self, exit_code: int) -> None:
        import trackio

        assert self._viewed is not None
        # Not the run's own `finish`: that one is called once more, and speaks, when the process ends.
        trackio.finish()
        settings = self._viewed.settings
        if exit_code or not settings.trackio_static_space_id:
            return
        if settings.trackio_space_id:
            trackio.freeze(
                space_id=settings.trackio_space_id,
                project=settings.trackio_project,
                new_space_id=settings.trackio_static_space_id,
                private=settings.trackio_private,
            )
        else:
            trackio.sync(
                project=settings.trackio_project,
                sdk="static",
                space_id=settings.trackio_static_space_id,
                private=settings.trackio_private,
                bucket_id=settings.trackio_bucket_id,
                force=True,
            )


TRACKERS: dict[str, type[WandbTracker] | type[TensorboardTracker] | type[TrackioTracker]] = {
    "wandb": WandbTracker,
    "tensorboard": TensorboardTracker,
    "trackio": TrackioTracker,
}
TITLES = {"wandb": "W&B", "tensorboard": "TensorBoard", "trackio": "trackio"}


def refusals(view: str) -> tuple[type[Exception], ...]:
    """Return the errors by which a view tells of its server or its disk, and not of a bug of ours."""
    if view != "wandb":
        return (OSError,)
    from wandb.errors import Error
    from wandb.sdk.mailbox import HandleAbandonedError

    return (OSError, Error, HandleAbandonedError)
