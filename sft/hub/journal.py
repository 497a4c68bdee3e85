"""The journal of what still has to reach the Hub, in `_sft/outbox/`. Paths in it are relative to the run.

```
000007-save-12-<id>/           the files of the seventh push, as they were when it was asked for (sft.hub.snapshot)
000007-save-12-<id>.json       the push; written after its files, so that all it needs is there
done/000007-save-12-<id>.json  what became of it
current.json                   the push that is being delivered
lock                           held with flock by the process that delivers
said.json                      what the run's events already have about the Hub
```
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sft import files
from sft.errors import ExitCode, UserError
from sft.hub.settings import Strategy
from sft.rundir import RunDirectory

Kind = Literal["save", "end"]
State = Literal["delivered", "skipped"]

ORPHAN_SECONDS = 3600.0
OVERTAKEN = "a later push brings the same files anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRequest:
    """One push: what of the run goes where."""

    id: str
    order: int
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
    def key(self) -> str:
        """The name of its file and of the directory with its files."""
        return f"{self.order:06d}-{self.kind}-{self.step}-{self.id}"

    @property
    def target(self) -> tuple[str, str | None, str | None]:
        """The branch that it goes to."""
        return self.repo, self.revision, self.endpoint

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


def enter(run: RunDirectory, request: PushRequest) -> None:
    """Journal a push, whose files are there."""
    write_whole(request_file(run, request), json.dumps(asdict(request), indent=1))


def next_order(run: RunDirectory) -> int:
    """Number the next push. A clock would not do: it may be set back between two saves."""
    names = [path.name for path in (*run.outbox.glob("*-*.json"), *run.outbox.glob("done/*-*.json"))]
    return 1 + max((int(order) for name in names if (order := name.split("-")[0]).isdigit()), default=0)


def pending(run: RunDirectory) -> list[PushRequest]:
    """List the pushes that are not settled, in the order in which they were asked for."""
    found = []
    for path in run.outbox.glob("*-*.json"):
        with contextlib.suppress(FileNotFoundError):  # settled by another process just now
            found.append(_request(_read(path), path))
    return sorted(found, key=lambda request: (request.order, request.created))


def still_waits(run: RunDirectory, request: PushRequest) -> bool:
    """Whether a push is in the journal now."""
    return request_file(run, request).exists()


def settled(run: RunDirectory) -> list[Settled]:
    """List what became of the pushes that are over, in the order in which they were asked for."""
    found = []
    for path in (run.outbox / "done").glob("*-*.json"):
        record = _read(path)
        request = _request(record, path)
        found.append(
            Settled(request=request, state=record["state"], url=record["url"], reason=record["reason"])
        )
    return sorted(found, key=lambda one: (one.request.order, one.request.created))


def settle(
    run: RunDirectory,
    request: PushRequest,
    state: State,
    *,
    url: str | None = None,
    reason: str | None = None,
) -> None:
    """Record what became of a push, take it off the list, and remove its files; a kill in between repeats it.

    Off the list first, and only then a look at what is being delivered; `being_delivered` does it the other way
    round. So a delivery passes over a push that is dropped meanwhile, or keeps its files until it is through.
    """
    record = {**asdict(request), "state": state, "url": url, "reason": reason, "settled": time.time()}
    write_whole(run.outbox / "done" / f"{request.key}.json", json.dumps(record, indent=1))
    request_file(run, request).unlink(missing_ok=True)
    if _current(run) != request.id:
        _remove_files(run, request)


@contextlib.contextmanager
def being_delivered(run: RunDirectory, request: PushRequest) -> Iterator[bool]:
    """Name the push that is being delivered; gives False where it does not wait any more."""
    current = run.outbox / "current.json"
    write_whole(current, json.dumps({"id": request.id, "host": socket.gethostname(), "pid": os.getpid()}))
    try:
        yield still_waits(run, request)
    finally:
        current.unlink(missing_ok=True)
        if not still_waits(run, request):
            _remove_files(run, request)


def sweep(run: RunDirectory) -> None:
    """Remove files that belong to no push: what kills left. For the process that holds the lock."""
    waiting = {request.key for request in pending(run)}
    for path in run.outbox.iterdir():
        if not path.is_dir() or path.name in (*waiting, "done"):
            continue
        with contextlib.suppress(FileNotFoundError):
            # Files are there before their push is journalled: one that is being asked for is left alone.
            is_over = (run.outbox / "done" / f"{path.name}.json").exists()
            if is_over or time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _remove_files(run: RunDirectory, request: PushRequest) -> None:
    shutil.rmtree(run.outbox / request.key, ignore_errors=True)


def _current(run: RunDirectory) -> str | None:
    try:
        return str(_read(run.outbox / "current.json")["id"])
    except FileNotFoundError:
        return None


def overtaken(requests: Sequence[PushRequest]) -> list[PushRequest]:
    """Find the pushes whose every file a later one brings anew, so that they need not be made.

    This is what `hub_always_push: false` means here: transformers drops the newer push while one is under
    way; the newest is the one worth having. A checkpoint that gets its own folder is never dropped.
    """
    found = []
    for index, request in enumerate(requests):
        later = [other for other in requests[index + 1 :] if other.target == request.target]
        ended = any(other.kind == "end" for other in later)
        if any((other.kind, other.step) == (request.kind, request.step) for other in later):
            dropped = True  # the same step, saved and asked for again
        elif request.kind == "end":
            dropped = ended
        elif request.always_push or request.strategy == "all_checkpoints":
            dropped = False
        else:
            saved_again = any(other.kind == "save" for other in later)
            dropped = saved_again or (ended and request.strategy == "every_save")
        if dropped:
            found.append(request)
    return found


def is_late(run: RunDirectory, request: PushRequest) -> bool:
    """Whether a push that was asked for later has arrived already: a refused one does not hold up those after it."""
    return any(
        one.state == "delivered"
        and one.request.target == request.target
        and one.request.order > request.order
        for one in settled(run)
    )


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
        # A file system without locks: two deliveries at once are wasteful, never wrong (see sft.hub.upload).
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, even after a power cut."""
    files.write_whole(path, text + "\n", durable=True)


def is_news(run: RunDirectory, text: str) -> bool:
    """Whether the run's events do not have this about the Hub yet; from now on they do."""
    said = run.outbox / "said.json"
    known = json.loads(said.read_text(encoding="utf-8")) if said.exists() else []
    if text in known:
        return False
    write_whole(said, json.dumps([*known, text]))
    return True


def request_file(run: RunDirectory, request: PushRequest) -> Path:
    """Where a push is journalled."""
    return run.outbox / f"{request.key}.json"


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
