"""The journal: in order, readable after the run was moved, and never half written."""

from __future__ import annotations

import os
import shutil

import pytest

from sft.errors import UserError
from sft.hub import outbox
from sft.hub.journal import being_delivered, pending, settle, settled
from sft.hub.outbox import request_push
from sft.hub.settings import HubSettings, endpoint_from_environment, settings_problems, without_password
from sft.hub.snapshot import SnapshotGoneError, held_files
from sft.rundir import RunDirectory
from tests.hub.conftest import MODEL, TOKENIZER, Push, save_checkpoint, save_final
from tests.loopback.hub import Hub

ALL = HubSettings(repo="team/chat", strategy="all_checkpoints")


def test_pushes_wait_in_the_order_in_which_they_were_asked_for_whatever_the_clock_says(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000, 0, -1))
    monkeypatch.setattr(outbox.time, "time", lambda: next(clock))
    for step in (20, 100, 3):  # 3: a fresh start in the same directory
        save_checkpoint(run, step)
        request_push(run, ALL, "save", step)
    save_final(run)
    request_push(run, ALL, "end", 3)
    assert [(request.order, request.what) for request in pending(run)] == [
        (1, "checkpoint-20"),
        (2, "checkpoint-100"),
        (3, "checkpoint-3"),
        (4, "the model of step 3"),
    ]


def test_the_order_goes_on_over_what_was_settled(run: RunDirectory) -> None:
    for step in (3, 6):
        save_checkpoint(run, step)
        asked = request_push(run, ALL, "save", step)
        assert asked is not None
        settle(run, asked, "delivered", url="http://hub/1")
    save_checkpoint(run, 9)
    asked = request_push(run, ALL, "save", 9)
    assert asked is not None
    assert asked.order == 3
    assert [one.request.step for one in settled(run)] == [3, 6]


def test_the_outbox_survives_a_move_of_the_run(run: RunDirectory, hub: Hub, push: Push) -> None:
    save_checkpoint(run, 3)
    request_push(run, HubSettings(repo="team/chat"), "save", 3)
    moved = RunDirectory(run.output_dir.rename(run.output_dir.with_name("moved")))
    for path in moved.outbox.rglob("*.json"):
        assert str(run.output_dir) not in path.read_text()
    moved.output_dir.rename(run.output_dir)
    copy = RunDirectory(run.output_dir.with_name("copied"))
    shutil.copytree(run.output_dir, copy.output_dir)  # new inodes, and new times where the copy takes them
    for path in copy.outbox.rglob("*"):
        os.utime(path)
    assert push(run=copy).problem is None
    assert set(hub.files("team/chat")) == MODEL | TOKENIZER


def test_a_step_asked_for_again_while_it_is_pushed_still_waits(run: RunDirectory) -> None:
    save_checkpoint(run, 3)
    first = request_push(run, ALL, "save", 3)
    assert first is not None
    with being_delivered(run, first) as waits:
        assert waits
        second = request_push(run, ALL, "save", 3)
        assert held_files(run, first)
    assert pending(run) == [second]
    with pytest.raises(SnapshotGoneError):
        held_files(run, first)
    settle(run, first, "delivered", url="http://hub/1")
    assert pending(run) == [second]


@pytest.mark.parametrize("text", ["{", '{"kind": "save"}', "[]"])
def test_a_file_that_is_no_request_is_told(run: RunDirectory, text: str) -> None:
    run.outbox.mkdir(parents=True)
    path = run.outbox / "000001-save-3-abc.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        pending(run)
    assert str(caught.value) == (
        "a file in the outbox is not a push request\n"
        f"  where: {path}\n"
        "  fix:   remove it; `sft push RUN_DIR --repo NAME` pushes the finished model anew"
    )


@pytest.mark.parametrize("repo", ["chat", "team/chat", "Team_1/chat-v1.0", "7b"])
def test_names_that_the_hub_takes_pass(run: RunDirectory, repo: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo)
    assert settings_problems(HubSettings(repo=repo), run.output_dir) == []


@pytest.mark.parametrize("repo", ["a/b/c", "chat.git", "-chat", "chat-", "a--b", "a..b", "my chat", "x" * 97])
def test_names_that_the_hub_refuses_are_found_without_it(run: RunDirectory, repo: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    with pytest.raises(HFValidationError):
        validate_repo_id(repo)
    [problem] = settings_problems(HubSettings(repo=repo), run.output_dir)
    assert problem.what == f"{repo!r} cannot name a repository on the Hub (hub_model_id)"


def test_a_commit_is_no_place_to_push_to(run: RunDirectory) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    [problem] = settings_problems(HubSettings(repo="chat", revision=commit), run.output_dir)
    assert str(problem) == (
        f"hub_revision {commit} is a commit, and a push can only add to a branch\n"
        "  fix:   set hub_revision to the name of a branch; it is made where it does not exist"
    )


def test_an_endpoint_with_a_password_is_not_journalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    assert endpoint_from_environment() == "https://hub.example"
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@hub.example")
    assert endpoint_from_environment() is None
    assert without_password("https://me:secret@hub.example/x") == "https://hub.example/x"
