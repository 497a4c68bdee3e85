"""Every fault at every request of a push: what is injected, and what became of it."""

from __future__ import annotations

import functools
import os
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest

from sft.hub import client
from sft.hub.deliver import deliver
from sft.hub.journal import pending
from sft.hub.outbox import request_push
from sft.hub.report import DeliveryReport
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from tests.hub.conftest import MODEL, TOKENIZER, save_final
from tests.loopback.hub import TOKEN, Hub

REPO, BRANCH = "team/chat", "dev"
# Certificates are read anew for every client, which takes longer than the rest of a push to the loopback.
TLS_ONCE = functools.cache(ssl.create_default_context)
RETRY_AFTER = "7"

REQUESTS: dict[str, dict[str, Any]] = {
    "create repo": {"request": "POST /api/repos/create"},
    "create branch": {"request": "POST /api/models/team/chat/branch/"},
    "read branch": {"request": "GET /api/models/team/chat/revision/"},
    "look": {"request": "GET /api/models/team/chat/tree/"},
    "validate-yaml": {"request": "POST /api/validate-yaml"},
    "preupload": {"request": "POST /api/models/team/chat/preupload/"},
    "LFS batch": {"request": "POST /team/chat.git/info/lfs/objects/batch"},
    "PUT": {"request": "PUT /lfs/"},
    "verify": {"request": "POST /lfs/.*/verify"},
    "commit": {"request": "POST /api/models/team/chat/commit/"},
    "check": {"request": "GET /api/models/team/chat/tree/", "skip": 1},
}
"""Every request of one push that brings a card to a new branch of a new repository, in order."""

FAULTS: dict[str, dict[str, Any]] = {
    **{str(status): {"status": status} for status in (401, 403, 404, 409, 412, 413)},
    "429, Retry-After": {"status": 429, "headers": {"Retry-After": RETRY_AFTER}},
    **{str(status): {"status": status} for status in (500, 503)},
    "reset": {"reset": True},
    "hang": {"hang": True},
    "half a request": {"half": True},
    "answer lost": {"lose_answer": True},
}
KILLS = {"killed before": "kill_before", "killed after": "kill_after"}
"""The process that delivers gets SIGKILL as the request comes in, or when the Hub has done what it asks."""


class Bench:
    """A loopback Hub and a finished run whose model waits to be pushed to a branch."""

    def __init__(self, hub: Hub, run: RunDirectory, slept: list[float]) -> None:
        self.hub = hub
        self.run = run
        self.slept = slept

    def push(self) -> DeliveryReport:
        """Deliver in this process; nothing is raised, whatever the Hub does."""
        return deliver(self.run, token=TOKEN, endpoint=self.hub.url)

    def push_and_be_killed(self) -> None:
        """Deliver in a process of its own until the Hub kills it."""
        asked, go = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os.read(asked, 1)
            self.push()
            os._exit(0)
        for fault in self.hub.faults:
            fault.kill = child
        os.write(go, b"!")
        _, status = os.waitpid(child, 0)
        os.close(asked)
        os.close(go)
        assert os.WIFSIGNALED(status), "the Hub did not see that request"
        assert os.WTERMSIG(status) == signal.SIGKILL

    def there(self) -> bool:
        """Whether the commit is made."""
        return REPO in self.hub.repositories and bool(self.commits())

    def commits(self) -> list[object]:
        branches = self.hub.repositories[REPO].branches
        return list(self.hub.commits(REPO, BRANCH)) if BRANCH in branches else []

    def assert_it_arrived_once(self) -> None:
        """Every file is there as it is here, by one commit, and nothing waits."""
        names = MODEL | TOKENIZER | {"README.md"}
        assert self.hub.files(REPO, BRANCH) == {
            name: (self.run.output_dir / name).read_bytes() for name in names
        }
        assert len(self.commits()) == 1
        assert pending(self.run) == []
        assert [path.name for path in self.run.outbox.iterdir() if path.is_dir()] == ["done"]


@contextmanager
def bench(directory: Path) -> Iterator[Bench]:
    """Set up a run and a Hub, with waits that are short or only noted."""
    run = RunDirectory(directory / "chat")
    run.output_dir.mkdir()
    save_final(run)
    (run.output_dir / "README.md").write_text("# A card\n", encoding="utf-8")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(min(seconds, 0.01))

    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        patch.setattr(client, "SILENCE_SECONDS", 0.3)
        patch.setattr(ssl, "create_default_context", TLS_ONCE)
        patch.setattr(client, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic, time=time.time))
        request_push(run, HubSettings(repo=REPO, strategy="end", revision=BRANCH), "end", 6)
        assert hub.requests == []  # training asks, and waits for no Hub
        yield Bench(hub, run, slept)
        assert hub.unknown == []


def once(fault: str, request: str, directory: Path) -> str:
    """Let a request fail once, and say in a word or two what became of the push."""
    with bench(directory) as at:
        hub = at.hub
        injected = hub.fault(**REQUESTS[request], times=1, **FAULTS[fault])
        report = at.push()
        assert injected.times == 0
        if "Retry-After" in fault:
            assert float(RETRY_AFTER) in at.slept
        if report.problem is None:
            became = "again" if at.slept else "goes on"
            landed = request == "check" or (request == "commit" and fault == "answer lost")
        else:
            became, landed = f"told {_status(report)}".strip(), at.there()
            assert report.waiting == ("the model of step 6",)
            assert at.push().problem is None
        at.assert_it_arrived_once()
        assert _commit_requests(hub) == (2 if request == "commit" and not landed else 1)
        return f"{became}, there" if landed else became


def always(fault: str, request: str, directory: Path) -> None:
    """Let a request fail however often it is made: it is told and kept, or was not needed; then it arrives."""
    with bench(directory) as at:
        at.hub.fault(**REQUESTS[request], **FAULTS[fault])
        report = at.push()
        if report.problem is not None:
            assert report.problem.where
            assert report.problem.fix
            assert report.waiting == ("the model of step 6",)
            at.hub.faults.clear()
            assert at.push().problem is None
        at.assert_it_arrived_once()


def killed(when: str, request: str, directory: Path) -> str:
    """Kill the delivery at a request, and say what the next one did."""
    with bench(directory) as at:
        at.hub.fault(**REQUESTS[request], times=1, **{KILLS[when]: True})
        at.push_and_be_killed()
        landed = at.there()
        sent = _commit_requests(at.hub)
        assert len(pending(at.run)) == 1
        assert at.push().problem is None
        at.assert_it_arrived_once()
        assert _commit_requests(at.hub) - sent == (0 if landed else 1)
        return "next, there" if landed else "next"


def _commit_requests(hub: Hub) -> int:
    return sum("/commit/" in request for request in hub.requests)


def _status(report: DeliveryReport) -> str:
    assert report.problem is not None
    return next((word for word in FAULTS if f"({word}" in report.problem.what), "")
