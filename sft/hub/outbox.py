"""Ask for a push: take hold of the files, journal it, and let go of what it overtakes. Nothing is sent here."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable

from sft.errors import UserError
from sft.events import EventLog
from sft.hub.journal import (
    OVERTAKEN,
    Kind,
    PushRequest,
    enter,
    is_news,
    next_order,
    overtaken,
    pending,
    settle,
)
from sft.hub.select import NothingToPushError, select
from sft.hub.settings import HubSettings
from sft.hub.snapshot import take
from sft.rundir import RunDirectory


def request_push(
    run: RunDirectory,
    settings: HubSettings,
    kind: Kind,
    step: int,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> PushRequest | None:
    """Journal a push of what was saved at `step`, or of the finished model in the output directory.

    What is pushed is what is there now, whatever becomes of it before the push is delivered. `say` is told
    what stays here and why, and so are the run's events.

    Returns None where the strategy pushes nothing at a save, there is nothing that can be pushed, or the outbox
    cannot be written (a full disk): no training ends for that.
    """
    if kind == "save" and settings.strategy == "end":
        return None
    source = f"checkpoint-{step}" if kind == "save" else "."
    request = PushRequest(
        id=uuid.uuid4().hex[:12],
        order=next_order(run),
        kind=kind,
        step=step,
        source=source,
        repo=settings.repo_name(run.output_dir),
        strategy=settings.strategy,
        private=settings.private,
        always_push=settings.always_push,
        revision=settings.revision,
        endpoint=settings.endpoint,
        created=time.time(),
    )
    try:
        selection = select(run, request)
        for note in selection.notes:
            _note(run, note, say)
        take(run, request, selection.uploads)
        enter(run, request)
    except NothingToPushError as error:
        _note(run, f"not pushed: {error}", say)
        return None
    except OSError as error:
        _note(run, f"{request.what} is not pushed: {error}", say)
        return None
    try:
        EventLog(run.events_jsonl).write("push", state="waiting", what=f"{request.what} to {request.repo}")
        for older in overtaken(pending(run)):
            settle(run, older, "skipped", reason=OVERTAKEN)
    except (OSError, UserError) as error:  # the push itself is journalled
        _note(run, f"the outbox is not in order: {error}", say)
    return request


def _note(run: RunDirectory, text: str, say: Callable[[str], None]) -> None:
    say(text)
    with contextlib.suppress(OSError):  # the disk may be full
        if is_news(run, text):
            EventLog(run.events_jsonl).write("note", text=text)
