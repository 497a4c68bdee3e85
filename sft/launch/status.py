"""Where a run stands, from the few small files that say it and from its platform. Reads no log, and of the events only the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sft.checkpoint.find import complete
from sft.errors import UserError
from sft.events import Event
from sft.hub.journal import pending
from sft.launch.platform import JobState, job_states
from sft.launch.said import read_from, read_object
from sft.report.lines import clock, measures
from sft.rundir import RunDirectory

TAIL_BYTES = 64 << 10
SILENT_SECONDS = 300.0
"""After so long without a word, it is said when the last one was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What is known of a run.

    Attributes:
        job: the newest job of the run that runs, waits or has ended, where its platform can be asked.
        problem: why it could not be asked.
        log: the newest `log` event with a loss; empty before the first.
        phase: the newest phase that the ranks are in, or were.
        last_word: when anything was last written of the run, in seconds since the epoch.
        outcome: how the last launch ended; empty while one runs.
        checkpoint: the step of the newest whole checkpoint, and when it was made.
        pushes: how many wait for the Hub.
        later: how many jobs of a chain wait behind this one.
    """

    run: RunDirectory
    job: JobState | None = None
    problem: str | None = None
    log: Event = field(default_factory=dict)
    phase: str | None = None
    last_word: float | None = None
    outcome: dict[str, object] = field(default_factory=dict)
    checkpoint: tuple[int, float] | None = None
    pushes: int = 0
    later: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing of the run runs or waits to."""
        if self.job is not None:
            return self.job.is_over
        return bool(self.outcome)

    def lines(self, now: float | None = None) -> list[str]:
        """Say it to people, one thing a line."""
        now = time.time() if now is None else now
        rows = [
            ("job", self._job(now)),
            ("training", self._training(now)),
            ("checkpoint", self._checkpoint(now)),
            ("pushes", f"{self.pushes} waiting: sft push {self.run.output_dir}" if self.pushes else ""),
            ("outcome", self._outcome()),
        ]
        said = [f"  {name:<11}{text}" for name, text in rows if text]
        return [str(self.run.output_dir), *(said or ["  nothing has run here yet"])]

    def to_json(self) -> dict[str, object]:
        """Return it for programs."""
        job = self.job
        return {
            "output_dir": str(self.run.output_dir),
            "job": None
            if job is None
            else {
                "id": job.job, "state": job.state, "reason": job.reason, "nodes": job.nodes,
                "begin": job.begin, "end": job.end, "restarts": job.restarts,
            },
            "phase": self.phase,
            "log": self.log,
            "checkpoint": self.checkpoint[0] if self.checkpoint else None,
            "pushes_waiting": self.pushes,
            "outcome": self.outcome,
            "last_word": self.last_word,
        }  # fmt: skip

    def _job(self, now: float) -> str:
        if self.job is None:
            return self.problem or ""
        job = self.job
        parts = [job.job, "unknown by now" if job.state == "GONE" else job.state.lower().replace("_", " ")]
        if job.reason and job.is_waiting:
            parts.append(f"({job.reason})")
        if job.nodes:
            parts.append(f"on {job.nodes}")
        if job.is_waiting and job.begin and job.begin > now:
            parts.append(f"expected to start in {clock(job.begin - now)}")
        if job.state == "RUNNING" and job.end and job.end > now:
            parts.append(f"{clock(job.end - now)} left of its time")
        if job.restarts:
            parts.append(f"start {job.restarts + 1}")
        if self.later:
            parts.append(f"{self.later} more behind it")
        return "  ".join(parts)

    def _training(self, now: float) -> str:
        if not self.log and not self.phase:
            return ""
        parts = [text for text in measures(self.log).values() if text] if self.log else []
        if self.phase and self.phase != "train" and not self.outcome:
            parts.insert(0, self.phase)
        if not self.is_over and self.last_word and now - self.last_word > SILENT_SECONDS:
            parts.append(f"(last heard of {clock(now - self.last_word)} ago)")
        return "  ".join(parts)

    def _checkpoint(self, now: float) -> str:
        if self.checkpoint is None:
            return ""
        step, made = self.checkpoint
        return f"checkpoint-{step}, {clock(max(0.0, now - made))} ago"

    def _outcome(self) -> str:
        outcome = self.outcome
        if not outcome:
            return ""
        why = outcome.get("what") or outcome.get("reason")
        text = f"{outcome.get('status')} at step {outcome.get('step')} (exit code {outcome.get('exit_code')})"
        return f"{text}: {why}" if why else text


def status_of(run: RunDirectory) -> RunStatus:
    """Look at a run."""
    job, problem, later = None, None, 0
    try:
        states = job_states(run)[1]
        alive = [state for state in states if not state.is_over]
        job = next(
            (state for state in [*alive, *states[-1:]] if not state.is_waiting), next(iter(alive), None)
        )
        later = len([state for state in alive if state.is_waiting and state is not job])
    except UserError as error:
        problem = error.problems[0].what
    events = list(_last_events(run.events_jsonl))
    phases = [event for event in events if event.get("event") == "phase"]
    logs = [event for event in events if event.get("event") == "log" and "loss" in event]
    found = complete(run)
    return RunStatus(
        run=run,
        job=job,
        problem=problem,
        log=logs[-1] if logs else {},
        phase=str(phases[-1]["phase"]) if phases else None,
        last_word=events[-1]["time"] if events else None,
        outcome=read_object(run.outcome_json) or {},
        checkpoint=(found[-1].manifest.step, found[-1].manifest.created) if found else None,
        pushes=len(pending(run)),
        later=later,
    )


def find_runs(under: Path, depth: int = 3) -> list[RunDirectory]:
    """List the run directories below a directory, the one that was last written to first."""

    def walk(path: Path, left: int) -> Iterator[Path]:
        if (path / "_sft").is_dir():
            yield path
            return
        if left:
            try:
                inside = sorted(
                    child for child in path.iterdir() if child.is_dir() and not child.is_symlink()
                )
            except OSError:
                return
            for child in inside:
                if not child.name.startswith("."):
                    yield from walk(child, left - 1)

    found = [RunDirectory(path) for path in walk(under, depth)]
    return sorted(found, key=lambda run: run.kit.stat().st_mtime, reverse=True)


def _last_events(path: Path) -> Iterator[Event]:
    """Yield the events at the end of the file; its first line may be a part of one."""
    for line in read_from(path, 0, most=TAIL_BYTES).splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event
