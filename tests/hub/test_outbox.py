"""The journal: in order, readable after the run was moved, and never half written."""

from __future__ import annotations

import pytest

from sft.errors import UserError
from sft.hub.outbox import pending, request_push, settle
from sft.hub.settings import HubSettings, endpoint_from_environment, settings_problems, without_password
from sft.rundir import RunDirectory


def test_pushes_wait_in_the_order_of_their_steps_whatever_the_order_of_asking(run: RunDirectory) -> None:
    settings = HubSettings(repo="team/chat")
    for kind, step in (("end", 100), ("save", 100), ("save", 20), ("save", 1_000_000)):
        request_push(run, settings, kind, step)  # type: ignore[arg-type]
    assert [request.name for request in pending(run)] == [
        "000020-save",
        "000100-save",
        "000100-end",
        "1000000-save",
    ]


def test_the_journal_survives_a_move_of_the_run(run: RunDirectory) -> None:
    request_push(run, HubSettings(repo="team/chat"), "save", 3)
    moved = RunDirectory(run.output_dir.rename(run.output_dir.with_name("moved")))
    assert [request.source for request in pending(moved)] == ["checkpoint-3"]
    assert str(run.output_dir) not in (moved.outbox / "000003-save.json").read_text()


def test_a_step_asked_for_again_while_it_is_pushed_still_waits(run: RunDirectory) -> None:
    settings = HubSettings(repo="team/chat")
    first = request_push(run, settings, "save", 3)
    assert first is not None
    second = request_push(run, settings, "save", 3)
    settle(run, first, "delivered", url="http://hub/1")
    assert pending(run) == [second]


@pytest.mark.parametrize("text", ["{", '{"kind": "save"}', "[]"])
def test_a_file_that_is_no_request_is_told(run: RunDirectory, text: str) -> None:
    run.outbox.mkdir(parents=True)
    path = run.outbox / "000003-save.json"
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
