"""Rank 0's account of the run: events to the file, to the trackers, and to the terminal when run by hand."""

from __future__ import annotations

import errno
import sys
import time
from typing import Any

from sft.checkpoint.resume import Resume
from sft.config.fields import is_key
from sft.config.run import RunConfig
from sft.events import EventLog
from sft.report.live import LiveViews
from sft.report.progress import ProgressPrinter
from sft.report.settings import ReportSettings, run_id, split_report_to
from sft.rundir import RunDirectory
from sft.training.agreement import World
from sft.training.rank import Rank

SECRET_WORDS = ("token", "api_key", "password", "secret")
SECRET_KEYS = frozenset(("hub_token", "push_to_hub_token"))
"""Keys of a run file that hold a secret; others that speak of tokens (eos_token, tokenizer_backend) mean those of a text."""


class Reporter:
    """Writes events on rank 0; on the other ranks every call does nothing."""

    def __init__(self, rank: Rank, run: RunDirectory) -> None:
        self._rank = rank
        self._run = run
        self._log = EventLog(run.events_jsonl)
        self._printer = (
            ProgressPrinter(sys.stderr, live=False) if rank.is_main and not rank.supervised else None
        )
        self._views: LiveViews | None = None
        self._held: list[tuple[str, dict[str, Any]]] = []
        self.run_id = ""

    def write(self, event: str, **fields: Any) -> None:
        """Append one event. What a full disk does not take is held, and written once there is room."""
        if not self._rank.is_main:
            return
        self._held.append((event, {"time": round(time.time(), 3), **fields}))
        try:
            while self._held:
                kind, values = self._held[0]
                self._log.write(kind, **values)
                del self._held[0]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        if self._printer:
            self._printer.show({"event": event, **fields})

    def phase(self, name: str) -> None:
        """Say what the run is doing now."""
        self._rank.phase(name)
        self.write("phase", phase=name)

    def note(self, text: str) -> None:
        """Tell the user something, once."""
        self.write("note", text=text)

    def start(self, config: RunConfig, world: World, resume: Resume | None) -> None:
        """Open the account of this launch, and the views that show it."""
        if not self._rank.is_main:
            return
        # A run that continues in another directory is still the run that it was.
        self.run_id = run_id(self._run, resume.manifest.run_id if resume and resume.manifest else None)
        training = config.training
        views, _ = split_report_to(training.report_to)
        settings = ReportSettings.of(
            views=views,
            run_name=training.run_name,
            project=training.project,
            trackio_space_id=training.trackio_space_id,
            trackio_bucket_id=training.trackio_bucket_id,
            trackio_static_space_id=training.trackio_static_space_id,
            hub_private_repo=training.hub_private_repo,
        )
        self.write(
            "start",
            run_id=self.run_id,
            run_name=training.run_name,
            world_size=world.processes,
            step=0 if resume is None else resume.step,
            config=without_secrets(config.settings()),
            report=settings.as_event(),
        )
        self._views = LiveViews(self._run, views) if views else None

    def end(self, status: str, exit_code: int, step: int) -> None:
        """Close the account; views get a limited time to deliver what is left."""
        self.write("end", status=status, exit_code=exit_code, step=step)
        if self._views:
            self._views.finish()
        if self._printer:
            self._printer.close()


def without_secrets(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a name gives away as secret (`env: {API_KEY: ...}`)."""
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if _is_secret(key) and isinstance(value, str):
            continue
        kept[key] = without_secrets(value) if isinstance(value, dict) else value
    return kept


def _is_secret(key: str) -> bool:
    if is_key(key):
        return key in SECRET_KEYS
    return any(word in key.lower() for word in SECRET_WORDS)
