"""Every strategy pushes exactly the files that it names, as they were saved, to the place that was asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest

from sft.hub.outbox import pending, request_push, settled
from sft.hub.report import DeliveryReport
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from tests.hub.conftest import ADAPTER, MODEL, RESUME, TOKENIZER, save_checkpoint, save_final, write_files
from tests.loopback.hub import Hub

Push = Callable[..., DeliveryReport]
REPO = "team/chat"


def in_folder(folder: str, names: set[str]) -> set[str]:
    return {f"{folder}/{name}" for name in names}


def messages(hub: Hub, revision: str = "main") -> list[str]:
    return [commit.message for commit in hub.commits(REPO, revision)]


def test_end_pushes_the_finished_model_and_nothing_at_a_save(hub: Hub, run: RunDirectory, push: Push) -> None:
    settings = HubSettings(repo=REPO, strategy="end")
    save_checkpoint(run, 3)
    assert request_push(run, settings, "save", 3) is None
    save_final(run)
    (run.output_dir / "README.md").write_text("# A card\n", encoding="utf-8")
    request_push(run, settings, "end", 6)
    report = push()
    assert set(hub.files(REPO)) == MODEL | TOKENIZER | {"README.md"}
    assert messages(hub) == ["End of training"]
    assert report.problem is None
    assert report.waiting == ()
    [delivered] = report.delivered
    assert delivered.url == f"{hub.url}/{REPO}/commit/{hub.commits(REPO)[-1].oid}"


def test_every_save_pushes_the_model_of_that_step_though_training_went_on(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    save_checkpoint(run, 3)
    request_push(run, HubSettings(repo=REPO, strategy="every_save"), "save", 3)
    save_final(run, label="step 5, later")
    assert push().problem is None
    assert set(hub.files(REPO)) == MODEL | TOKENIZER
    assert hub.files(REPO)["model.safetensors"] == b"step 3 model.safetensors"
    assert messages(hub) == ["Training in progress, step 3"]


def test_checkpoint_keeps_the_newest_checkpoint_whole_in_last_checkpoint(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    settings = HubSettings(repo=REPO, strategy="checkpoint")
    write_files(save_checkpoint(run, 3), {"global_step3/rank_0.pt"}, "step 3")
    request_push(run, settings, "save", 3)
    assert push().problem is None
    whole = MODEL | TOKENIZER | RESUME
    assert set(hub.files(REPO)) == MODEL | TOKENIZER | in_folder(
        "last-checkpoint", whole | {"global_step3/rank_0.pt"}
    )
    write_files(save_checkpoint(run, 6), {"global_step6/rank_0.pt"}, "step 6")
    request_push(run, settings, "save", 6)
    assert push().problem is None
    assert set(hub.files(REPO)) == MODEL | TOKENIZER | in_folder(
        "last-checkpoint", whole | {"global_step6/rank_0.pt"}
    )
    assert hub.files(REPO)["last-checkpoint/optimizer.pt"] == b"step 6 optimizer.pt"
    assert messages(hub) == ["Training in progress, step 3", "Training in progress, step 6"]


def test_all_checkpoints_pushes_each_into_its_own_folder_even_when_they_pile_up(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    settings = HubSettings(repo=REPO, strategy="all_checkpoints")
    for step in (3, 6):
        save_checkpoint(run, step, ADAPTER | TOKENIZER)
        request_push(run, settings, "save", step)
    save_final(run, ADAPTER | TOKENIZER)
    request_push(run, settings, "end", 6)
    report = push()
    whole = ADAPTER | TOKENIZER | RESUME
    assert set(hub.files(REPO)) == ADAPTER | TOKENIZER | in_folder("checkpoint-3", whole) | in_folder(
        "checkpoint-6", whole
    )
    assert hub.files(REPO)["adapter_model.safetensors"] == b"final adapter_model.safetensors"
    assert [one.what for one in report.delivered] == ["checkpoint-3", "checkpoint-6", "the model of step 6"]


def test_an_older_save_that_still_waits_gives_way_to_a_newer_one(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    settings = HubSettings(repo=REPO, strategy="every_save")
    for step in (3, 6, 9):
        save_checkpoint(run, step)
        request_push(run, settings, "save", step)
    push()
    assert messages(hub) == ["Training in progress, step 9"]
    assert [(one.request.step, one.state) for one in settled(run)] == [
        (3, "skipped"),
        (6, "skipped"),
        (9, "delivered"),
    ]


def test_always_push_pushes_every_save(hub: Hub, run: RunDirectory, push: Push) -> None:
    settings = HubSettings(repo=REPO, strategy="every_save", always_push=True)
    for step in (3, 6):
        save_checkpoint(run, step)
        request_push(run, settings, "save", step)
    push()
    assert messages(hub) == ["Training in progress, step 3", "Training in progress, step 6"]


def test_the_end_does_not_replace_a_last_checkpoint_that_still_waits(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    settings = HubSettings(repo=REPO, strategy="checkpoint")
    save_checkpoint(run, 6)
    request_push(run, settings, "save", 6)
    save_final(run)
    request_push(run, settings, "end", 6)
    push()
    assert messages(hub) == ["Training in progress, step 6", "End of training"]
    assert "last-checkpoint/optimizer.pt" in hub.files(REPO)


def test_a_checkpoint_that_was_rotated_away_is_passed_over_and_said(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    settings = HubSettings(repo=REPO, strategy="all_checkpoints")
    for step in (3, 6):
        save_checkpoint(run, step)
        request_push(run, settings, "save", step)
    shutil.rmtree(run.output_dir / "checkpoint-3")
    report = push()
    assert report.problem is None
    assert report.notes == ("not pushed: checkpoint-3 was rotated away before it could be pushed",)
    assert messages(hub) == ["Training in progress, step 6"]
    assert pending(run) == []


def test_a_checkpoint_that_goes_away_during_the_upload_is_passed_over_too(
    hub: Hub, run: RunDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(run, 3)
    request_push(run, HubSettings(repo=REPO), "save", 3)
    create = Hub.create

    def rotate_then_create(self: Hub, body: dict[str, object]) -> dict[str, object]:
        shutil.rmtree(run.output_dir / "checkpoint-3")
        return create(self, body)

    monkeypatch.setattr(Hub, "create", rotate_then_create)
    report = push()
    assert report.problem is None
    assert report.notes == ("not pushed: checkpoint-3 was rotated away before it could be pushed",)
    assert hub.commits(REPO) == []


def test_a_save_of_shards_only_is_passed_over_and_said(hub: Hub, run: RunDirectory, push: Push) -> None:
    save_checkpoint(run, 3, {"config.json", "pytorch_model_fsdp_0/__0_0.distcp"} | TOKENIZER)
    request_push(run, HubSettings(repo=REPO), "save", 3)
    report = push()
    assert report.notes == ("not pushed: checkpoint-3 holds no weights that load by themselves, only shards",)
    assert hub.repositories == {}


def test_sharded_weights_extra_templates_and_a_models_own_code_go_with_it(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    weights = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    more = {"model.safetensors.index.json", "additional_chat_templates/tools.jinja", "tokenizer.model"}
    directory = save_checkpoint(run, 3, weights | more | TOKENIZER)
    (directory / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling_own.Own"}}))
    (directory / "modeling_own.py").write_text("class Own: ...\n")
    request_push(run, HubSettings(repo=REPO), "save", 3)
    assert push().problem is None
    assert set(hub.files(REPO)) == weights | more | TOKENIZER | {"config.json", "modeling_own.py"}


def test_a_revision_is_a_branch_that_is_made_where_it_is_missing(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    save_final(run)
    for label in ("once", "twice"):
        write_files(run.output_dir, {"model.safetensors"}, label)
        request_push(run, HubSettings(repo=REPO, strategy="end", revision="try/1"), "end", 6)
        assert push().problem is None
    assert set(hub.files(REPO, "try/1")) == MODEL | TOKENIZER
    assert messages(hub, "try/1") == ["End of training", "End of training"]
    assert hub.files(REPO) == {}


@pytest.mark.parametrize(("private", "visibility"), [(True, "private"), (False, "public"), (None, "public")])
def test_a_new_repository_is_private_where_that_was_asked_for(
    hub: Hub, run: RunDirectory, push: Push, private: bool | None, visibility: str
) -> None:
    save_final(run)
    request_push(run, HubSettings(repo=REPO, strategy="end", private=private), "end", 6)
    push()
    assert hub.repositories[REPO].visibility == visibility


def test_without_a_repository_name_the_output_directory_gives_it(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    save_final(run)
    request_push(run, HubSettings(strategy="end"), "end", 6)
    assert push().delivered[0].repo == "tester/chat-lora"
    assert list(hub.repositories) == ["tester/chat-lora"]


def test_a_push_that_is_repeated_adds_no_commit(hub: Hub, run: RunDirectory, push: Push) -> None:
    save_final(run)
    for _ in range(2):
        request_push(run, HubSettings(repo=REPO, strategy="end"), "end", 6)
        report = push()
    assert messages(hub) == ["End of training"]
    assert report.delivered[0].url == f"{hub.url}/{REPO}/commit/{hub.commits(REPO)[0].oid}"


def test_a_card_that_names_a_local_path_stays_here(hub: Hub, run: RunDirectory, push: Push) -> None:
    save_final(run)
    (run.output_dir / "README.md").write_text("---\nbase_model: /data/models/base\n---\n# Card\n")
    request_push(run, HubSettings(repo=REPO, strategy="end"), "end", 6)
    report = push()
    assert report.notes == ("README.md stays here: its base_model is a local path",)
    assert set(hub.files(REPO)) == MODEL | TOKENIZER
