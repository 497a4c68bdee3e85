"""The account of one launch that the supervisor keeps: what is cleared before it, and how it ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sft.errors import ExitCode
from sft.events import EventLog
from sft.launch.said import read_object
from sft.launch.screen import Screen
from sft.launch.verdict import Verdict
from sft.rundir import RunDirectory


def clear(run: RunDirectory, ranks: range, *, nodes: int) -> None:
    """Take away what an earlier launch left for its own supervisor; events and logs stay.

    Args:
        ranks: this supervisor's; where it is one of several, the others' ranks may have begun.
    """
    run.logs.mkdir(parents=True, exist_ok=True)
    run.ranks.mkdir(exist_ok=True)
    old = list(run.ranks.iterdir()) if nodes == 1 else [run.rank_state(rank) for rank in ranks]
    if 0 in ranks:
        old += [run.stop_file, run.outcome_json]
    for path in old:
        path.unlink(missing_ok=True)


def end_of_events(path: Path) -> int:
    """Return where new events begin. A line torn by a kill is ended, or it would swallow the next event."""
    if not path.exists():
        return 0
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.write(b"\n")
                size += 1
    return size


def write_end(run: RunDirectory, verdict: Verdict, screen: Screen, reason: str | None) -> None:
    """Write the outcome and the `end` event, where the ranks could not or ended otherwise than they said."""
    outcome = read_object(run.outcome_json)
    if outcome is None or outcome.get("exit_code") != verdict.exit_code:
        fields: dict[str, Any] = {
            "status": verdict.status,
            "exit_code": verdict.exit_code,
            "step": screen.step,
        }
        if verdict.exit_code == ExitCode.STOPPED and reason is not None:
            fields["reason"] = reason
        if verdict.problem is not None:
            found = verdict.problem
            told = {"what": found.what, "where": found.where, "fix": found.fix}
            fields |= {name: text for name, text in told.items() if text is not None}
        _put(run.outcome_json, fields)
    if not screen.has_ended:
        EventLog(run.events_jsonl).write(
            "end", status=verdict.status, exit_code=verdict.exit_code, step=screen.step
        )


def _put(path: Path, fields: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(fields) + "\n", encoding="utf-8")
    partial.replace(path)
