"""The journal of what still has to reach the Hub: one JSON file a push, in `_sft/outbox/`.

A push is asked for by writing its file, and settled by moving it into `done/` with what became of it.
Only the process that holds the outbox's lock settles; anyone may ask. Paths in it are relative to the
run, so that moving the run directory breaks nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sft.errors import ExitCode, UserError
from sft.events import EventLog
from sft.hub.settings import HubSettings, Strategy
from sft.rundir import RunDirectory

Kind = Literal["save", "end"]
State = Literal["delivered", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRequest:
    """One push: what of the run goes where."""

    kind: Kind
    step: int
    source: str
    repo: str
    strategy: Strategy
    private: bool | None
    always_push: bool
    revision: str | None
    endpoint: str | None
    created: float

    @property
    def name(self) -> str:
        """The name of its file: `000012-save`."""
        return f"{self.step:06d}-{self.kind}"

    @property
    def what(self) -> str:
        """How people are told of it."""
        return self.source if self.kind == "save" else f"the model of step {self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A push that is over: `url` is its commit, `reason` why there was none."""

    request: PushRequest
    state: State
    url: str | None
    reason: str | None


def request_push(run: RunDirectory, settings: HubSettings, kind: Kind, step: int) -> PushRequest | None:
    """Journal a push of what was saved at `step`, or of the finished model in the output directory.

    Returns None where the strategy pushes nothing at a save.
    """
    if kind == "save" and settings.strategy == "end":
        return None
    request = PushRequest(
        kind=kind,
        step=step,
        source=f"checkpoint-{step}" if kind == "save" else ".",
        repo=settings.repo_name(run.output_dir),
        strategy=settings.strategy,
        private=settings.private,
        always_push=settings.always_push,
        revision=settings.revision,
        endpoint=settings.endpoint,
        created=time.time(),
    )
    write_whole(_file(run, request), json.dumps(asdict(request), indent=1))
    EventLog(run.events_jsonl).write("push", state="waiting", what=f"{request.what} to {request.repo}")
    return request


def pending(run: RunDirectory) -> list[PushRequest]:
    """List the pushes that are not settled, in the order to deliver them."""
    return sorted(
        (_request(_read(path), path) for path in run.outbox.glob("*-*.json")),
        key=lambda request: (request.step, request.kind == "end", request.created),
    )


def settled(run: RunDirectory) -> list[Settled]:
    """List what became of the pushes that are over."""
    found = []
    for path in sorted((run.outbox / "done").glob("*-*.json")):
        record = _read(path)
        request = _request(record, path)
        found.append(
            Settled(request=request, state=record["state"], url=record["url"], reason=record["reason"])
        )
    return found


def settle(
    run: RunDirectory,
    request: PushRequest,
    state: State,
    *,
    url: str | None = None,
    reason: str | None = None,
) -> Settled:
    """Record what became of a push, then take it off the list; a kill in between only repeats it."""
    record = {**asdict(request), "state": state, "url": url, "reason": reason, "settled": time.time()}
    path = _file(run, request)
    write_whole(run.outbox / "done" / path.name, json.dumps(record, indent=1))
    # The same step may have been saved and asked for again meanwhile: that one is still to be pushed.
    if path.exists() and _read(path)["created"] == request.created:
        path.unlink()
    return Settled(request=request, state=state, url=url, reason=reason)


def overtaken(requests: Sequence[PushRequest]) -> list[PushRequest]:
    """Find the pushes whose every file a later one brings anew, so that they need not be made.

    This is what `hub_always_push: false` means here: transformers drops the newer push while one is under
    way; the newest is the one worth having. A checkpoint that gets its own folder is never dropped.
    """
    found = []
    for index, request in enumerate(requests):
        later = [
            other
            for other in requests[index + 1 :]
            if (other.repo, other.revision, other.endpoint)
            == (request.repo, request.revision, request.endpoint)
        ]
        ended = any(other.kind == "end" for other in later)
        if request.kind == "end":
            dropped = ended
        elif request.always_push or request.strategy == "all_checkpoints":
            dropped = False
        else:
            saved_again = any(other.kind == "save" for other in later)
            dropped = saved_again or (ended and request.strategy == "every_save")
        if dropped:
            found.append(request)
    return found


@contextlib.contextmanager
def outbox_lock(run: RunDirectory) -> Iterator[bool]:
    """Hold the outbox for as long as the block runs; gives False at once where another process has it."""
    run.outbox.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run.outbox / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # A file system without locks: two deliveries at once are wasteful, never wrong.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _file(run: RunDirectory, request: PushRequest) -> Path:
    return run.outbox / f"{request.name}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _not_a_request(path) from error


def _request(record: dict[str, Any], path: Path) -> PushRequest:
    try:
        return PushRequest(**{field.name: record[field.name] for field in fields(PushRequest)})
    except (KeyError, TypeError) as error:
        raise _not_a_request(path) from error


def _not_a_request(path: Path) -> UserError:
    return UserError(
        "a file in the outbox is not a push request",
        str(path),
        "remove it; `sft push RUN_DIR --repo NAME` pushes the finished model anew",
        exit_code=ExitCode.ENVIRONMENT,
    )
