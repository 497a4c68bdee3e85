"""Whatever the Hub does, it is told with what, where and fix, and the journal keeps what did not arrive."""

from __future__ import annotations

import errno
import shlex

import pytest

from sft.events import read_events
from sft.hub import client, journal
from sft.hub.journal import outbox_lock, pending
from sft.hub.outbox import request_push
from sft.hub.settings import HubSettings, Strategy
from sft.rundir import RunDirectory
from tests.hub.conftest import MODEL, TOKENIZER, Push, save_checkpoint, save_final
from tests.loopback.hub import TOKEN, Hub

REPO = "team/chat"


@pytest.fixture
def waiting(run: RunDirectory) -> RunDirectory:
    """A finished run whose model waits to be pushed to a branch."""
    save_final(run)
    (run.output_dir / "README.md").write_text("# A card\n", encoding="utf-8")
    request_push(run, HubSettings(repo=REPO, strategy="end", revision="dev"), "end", 6)
    return run


def assert_it_arrives_once(hub: Hub, run: RunDirectory, push: Push) -> None:
    """Push again, with the Hub well, and find every file there by one commit."""
    hub.faults.clear()
    assert push().problem is None
    assert set(hub.files(REPO, "dev")) == MODEL | TOKENIZER | {"README.md"}
    assert len(hub.commits(REPO, "dev")) == 1
    assert pending(run) == []


@pytest.mark.parametrize(
    ("status", "what", "fix"),
    [
        (
            401,
            "the Hub does not accept the token (401: fault 401)",
            "export HF_TOKEN with a valid one, or run `hf auth login`; then {again}",
        ),
        (
            403,
            "the token may not write to team/chat (403: fault 403)",
            "use a token with write permission there, or `{again} --repo OWNER/NAME`",
        ),
        (
            404,
            "the Hub has no team/chat with branch dev (404: fault 404)",
            "check hub_model_id and hub_revision, and that the token may see them; then {again}",
        ),
        (413, "the Hub refuses the push (413: fault 413)", "mend that, then {again}"),
        (500, "the Hub is not well: it answers 500", "later: {again}"),
        (429, "the Hub is not well: it answers 429", "later: {again}"),
    ],
)
def test_a_refusal_is_told_with_what_where_and_fix(
    hub: Hub, waiting: RunDirectory, push: Push, status: int, what: str, fix: str
) -> None:
    hub.fault("POST .*/preupload/", status=status)
    problem = push().problem
    assert problem is not None
    again = f"sft push {shlex.quote(str(waiting.output_dir))}"
    assert str(problem) == (
        f"{what}\n  where: the model of step 6 to team/chat at {hub.url}\n  fix:   {fix.format(again=again)}"
    )


def test_a_refusal_inside_an_upload_thread_is_told_as_what_it_is(
    hub: Hub, waiting: RunDirectory, push: Push
) -> None:
    hub.fault("POST /lfs/.*/verify", status=403)
    problem = push().problem
    assert problem is not None
    assert problem.what == "the token may not write to team/chat (403: fault 403)"
    assert len([request for request in hub.requests if request.startswith("PUT /lfs/")]) == 1


def test_a_hub_out_of_reach_is_said_once_and_pushed_later(hub: Hub, run: RunDirectory, push: Push) -> None:
    settings = HubSettings(repo=REPO, revision="dev")
    with Hub() as gone:
        pass
    for step in (3, 6):
        save_checkpoint(run, step)
        request_push(run, settings, "save", step)
        report = push(endpoint=gone.url)
        assert report.problem is not None
        assert report.problem.what == "the Hub is out of reach: [Errno 111] Connection refused"
    said = [event["what"] for event in read_events(run.events_jsonl) if event.get("state") == "failed"]
    assert len(said) == 1
    assert said[0].startswith("the Hub is out of reach: ")
    assert push().problem is None
    assert set(hub.files(REPO, "dev")) == MODEL | TOKENIZER


def test_retry_after_is_waited_for(
    hub: Hub, waiting: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(client.time, "sleep", slept.append)
    hub.fault("POST .*/commit/", status=429, headers={"Retry-After": "7"}, times=1)
    hub.fault("POST .*/commit/", status=429, headers={"RateLimit": '"api";r=0;t=55'}, times=1)
    assert push().problem is None
    assert 7.0 in slept
    assert 55.0 in slept
    assert_it_arrives_once(hub, waiting, push)


def test_a_retry_after_beyond_patience_is_told(hub: Hub, waiting: RunDirectory, push: Push) -> None:
    hub.fault("POST .*/commit/", status=429, headers={"Retry-After": "3600"})
    problem = push().problem
    assert problem is not None
    assert problem.what == "the Hub asks to wait 3600 s: it answers 429"
    assert problem.fix == f"in 3600 s: sft push {waiting.output_dir}"
    assert_it_arrives_once(hub, waiting, push)


def test_a_push_that_is_too_large_does_not_hold_up_the_one_after_it(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    save_checkpoint(run, 6)
    request_push(run, HubSettings(repo=REPO, strategy="all_checkpoints"), "save", 6)
    save_final(run)
    request_push(run, HubSettings(repo=REPO, strategy="all_checkpoints"), "end", 6)
    hub.fault("POST .*/commit/", status=413, times=1)
    report = push()
    assert report.problem is not None
    assert report.waiting == ("checkpoint-6",)
    assert [commit.message for commit in hub.commits(REPO)] == ["End of training"]
    # It comes late, into its own folder only: the root keeps the newer model.
    assert push().problem is None
    assert hub.commits(REPO)[-1].message == "Training in progress, step 6"
    assert hub.files(REPO)["model.safetensors"] == b"final model.safetensors"
    assert hub.files(REPO)["checkpoint-6/model.safetensors"] == b"step 6 model.safetensors"


@pytest.mark.parametrize("strategy", ["checkpoint", "every_save"])
def test_a_refused_save_that_would_come_after_a_newer_one_is_not_pushed_any_more(
    hub: Hub, run: RunDirectory, push: Push, strategy: Strategy
) -> None:
    settings = HubSettings(repo=REPO, strategy=strategy, always_push=True)
    for step in (3, 6):
        save_checkpoint(run, step)
        request_push(run, settings, "save", step)
    hub.fault("POST .*/commit/", status=413, times=1)
    assert push().waiting == ("checkpoint-3",)
    before = hub.files(REPO)
    assert push().notes == ("not pushed: a later push than that of checkpoint-3 is there already",)
    assert hub.files(REPO) == before
    assert pending(run) == []


def test_a_hub_that_hangs_is_left_at_the_time_limit(hub: Hub, waiting: RunDirectory, push: Push) -> None:
    hub.fault("PUT /lfs/", hang=True)
    problem = push(timeout_seconds=1.0).problem
    assert str(problem) == (
        "the push to the Hub did not end within 1 s; the run itself is complete on disk\n"
        f"  where: {waiting.outbox}\n"
        f"  fix:   sft push {waiting.output_dir}  # takes up what still waits"
    )
    assert_it_arrives_once(hub, waiting, push)


def test_two_deliveries_of_one_run_do_not_mix(waiting: RunDirectory, push: Push, hub: Hub) -> None:
    with outbox_lock(waiting) as held:
        assert held
        problem = push().problem
        assert problem is not None
        assert problem.what == "another process is pushing this run right now"
        assert hub.requests == []
    assert_it_arrives_once(hub, waiting, push)


def test_without_a_token_nothing_is_asked_of_the_hub(
    hub: Hub, waiting: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sft.hub.deliver.get_token", lambda: None)
    assert str(push(token=None).problem) == (
        "there is no token for the Hub, so nothing was pushed\n"
        "  where: neither HF_TOKEN nor a login of huggingface_hub\n"
        f"  fix:   export HF_TOKEN=..., or run `hf auth login`; then sft push {waiting.output_dir}"
    )
    assert hub.requests == []


def test_a_token_that_the_hub_repeats_is_not_told(hub: Hub, waiting: RunDirectory, push: Push) -> None:
    hub.fault("POST .*/commit/", status=400, headers={"X-Error-Message": f"bad token {TOKEN}"})
    problem = push().problem
    assert problem is not None
    assert problem.what == "the Hub refuses the push (400: bad token ***)"
    assert all(TOKEN not in path.read_text() for path in waiting.kit.rglob("*") if path.is_file())


def test_a_full_disk_is_told_and_makes_no_second_commit(hub: Hub, waiting: RunDirectory, push: Push) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "write_whole", refuse)
        assert str(push().problem) == (
            "the outbox cannot be written: No space left on device\n"
            f"  where: {waiting.outbox}\n"
            f"  fix:   make room there, and see that it may be written; then sft push {waiting.output_dir}"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sft.hub.deliver.settle", refuse)
        problem = push().problem
        assert problem is not None
        assert problem.what == "the push was not possible: [Errno 28] No space left on device"
        assert len(hub.commits(REPO, "dev")) == 1
    assert_it_arrives_once(hub, waiting, push)
