"""Each push arrives exactly once: after lost answers, beside other people's commits, with two deliveries at once."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from typing import Any

import huggingface_hub.constants
import pytest

from sft.hub import journal
from sft.hub.deliver import deliver
from sft.hub.journal import pending, request_file, settled
from sft.hub.outbox import request_push
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from tests.hub.conftest import MODEL, TOKENIZER, Push, save_checkpoint, save_final
from tests.loopback.hub import TOKEN, Hub

REPO = "team/chat"
END = HubSettings(repo=REPO, strategy="end")


@pytest.fixture
def waiting(run: RunDirectory) -> RunDirectory:
    """A finished run whose model waits to be pushed."""
    save_final(run)
    request_push(run, END, "end", 6)
    return run


def during_the_upload(monkeypatch: pytest.MonkeyPatch, act: Callable[[Hub], None], times: int = 1) -> None:
    """Have somebody else do something between the look at the branch and the commit."""
    preupload = Hub.preupload
    left = iter(range(times))

    def act_then_answer(self: Hub, *arguments: Any) -> dict[str, Any]:
        if next(left, None) is not None:
            act(self)
        return preupload(self, *arguments)

    monkeypatch.setattr(Hub, "preupload", act_then_answer)


def messages(hub: Hub) -> list[str]:
    return [commit.message for commit in hub.commits(REPO)]


def test_every_commit_stands_on_what_was_looked_at_and_names_its_push(
    hub: Hub, waiting: RunDirectory, push: Push
) -> None:
    parents = []
    commit = Hub.commit

    def note_parent(self: Hub, repo: str, revision: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        parents.append((lines[0]["value"]["parentCommit"], self.branch(repo, revision).head))
        return commit(self, repo, revision, lines)

    [request] = pending(waiting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hub, "commit", note_parent)
        assert push().problem is None
    assert [asked == head for asked, head in parents] == [True]
    assert hub.commits(REPO)[0].description == f"sft-push: {request.id}"


def test_only_what_differs_is_sent(hub: Hub, waiting: RunDirectory, push: Push) -> None:
    assert push().problem is None
    (waiting.output_dir / "config.json").write_text('{"new": 1}')
    request_push(waiting, END, "end", 9)
    hub.requests.clear()
    assert push().problem is None
    assert set(hub.commits(REPO)[-1].added) == {"config.json"}
    assert not any(request.startswith("PUT") for request in hub.requests)


def test_somebody_elses_commit_on_other_files_stays_and_ours_follows_it(
    hub: Hub, waiting: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_the_upload(monkeypatch, lambda hub: hub.add_by_hand(REPO, "main", "LICENSE", b"MIT"))
    assert push().problem is None
    assert messages(hub) == ["Update LICENSE", "End of training"]
    assert set(hub.files(REPO)) == MODEL | TOKENIZER | {"LICENSE"}


def test_somebody_elses_commit_of_equal_files_is_no_matter(
    hub: Hub, waiting: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (waiting.output_dir / "config.json").read_bytes()
    during_the_upload(monkeypatch, lambda hub: hub.add_by_hand(REPO, "main", "config.json", config))
    assert push().problem is None
    assert messages(hub) == ["Update config.json", "End of training"]
    assert "config.json" not in hub.commits(REPO)[-1].added


def test_somebody_elses_commit_of_the_same_file_is_told_and_replaced_only_when_asked_again(
    hub: Hub, waiting: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_the_upload(monkeypatch, lambda hub: hub.add_by_hand(REPO, "main", "config.json", b"{}"))
    report = push()
    assert str(report.problem) == (
        "somebody else changed the same files meanwhile: config.json\n"
        f"  where: the model of step 6 to {REPO} at {hub.url}\n"
        f"  fix:   look at what is there; `sft push {waiting.output_dir}` replaces it"
    )
    assert messages(hub) == ["Update config.json"]
    assert report.waiting == ("the model of step 6",)
    assert push().problem is None
    assert messages(hub) == ["Update config.json", "End of training"]


def test_a_branch_that_never_stands_still_is_told(
    hub: Hub, waiting: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(100))
    during_the_upload(
        monkeypatch, lambda hub: hub.add_by_hand(REPO, "main", f"{next(numbers)}.txt", b"1"), times=100
    )
    report = push()
    assert report.problem is not None
    assert report.problem.what == "the Hub is not well: somebody else is changing the same (412)"
    assert report.again_seconds == 60


def test_a_commit_whose_answer_was_lost_is_known_again_though_its_files_were_changed_since(
    hub: Hub, waiting: RunDirectory, push: Push
) -> None:
    hub.fault("POST .*/commit/", lose_answer=True, times=1)
    hub.fault("POST /api/repos/create", status=403, skip=1, times=1)
    assert push().problem is not None
    assert messages(hub) == ["End of training"]
    hub.add_by_hand(REPO, "main", "config.json", b"{}")
    report = push()
    assert report.problem is None
    assert report.delivered[0].url == f"{hub.url}/{REPO}/commit/{hub.commits(REPO)[0].oid}"
    assert messages(hub) == ["End of training", "Update config.json"]


def test_what_the_hub_holds_otherwise_than_it_was_sent_is_sent_again(
    hub: Hub, waiting: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Hub.commit
    left = iter([1])

    def spoil_once(self: Hub, repo: str, revision: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        if next(left, None):
            next(line for line in lines if line["key"] == "file")["value"]["content"] = "e30K"
        return commit(self, repo, revision, lines)

    monkeypatch.setattr(Hub, "commit", spoil_once)
    assert push().problem is None
    assert len(messages(hub)) == 2
    assert hub.files(REPO) == {name: (waiting.output_dir / name).read_bytes() for name in MODEL | TOKENIZER}


def test_a_kill_between_the_delivery_and_its_record_repeats_nothing(
    hub: Hub, waiting: RunDirectory, push: Push
) -> None:
    [request] = pending(waiting)
    text = request_file(waiting, request).read_text()
    held = waiting.outbox / request.key
    copy = held.rename(waiting.outbox.parent / "kept")
    shutil.copytree(copy, held)
    assert push().problem is None
    copy.rename(held)
    request_file(waiting, request).write_text(text)
    assert push().problem is None
    assert messages(hub) == ["End of training"]


def test_two_deliveries_where_locks_do_not_hold_make_one_commit_a_push(
    hub: Hub, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on two nodes of a file system whose flock is each node's own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(journal, "_try_lock", lambda _: True)
    monkeypatch.setattr("sft.hub.client.RETRY_WAITS_SECONDS", (0.05,) * 10)
    settings = HubSettings(repo=REPO, strategy="all_checkpoints")
    for step in (3, 6, 9):
        save_checkpoint(run, step)
        request_push(run, settings, "save", step)
    hub.fault("POST .*/commit/", delay_seconds=0.2)
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            report = deliver(run, token=TOKEN, endpoint=hub.url)
            os._exit(0 if report.problem is None else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert messages(hub) == [f"Training in progress, step {step}" for step in (3, 6, 9)]
    assert pending(run) == []
    assert [(one.request.step, one.state) for one in settled(run)] == [
        (step, "delivered") for step in (3, 6, 9)
    ]
