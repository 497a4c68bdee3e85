"""Every strategy pushes exactly the files that it names, as they were saved, to the place that was asked for."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from sft.events import read_events
from sft.hub.journal import settled
from sft.hub.outbox import request_push
from sft.hub.report import DeliveryReport
from sft.hub.select import RESUME as RESUME_PATTERNS
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from tests.hub.conftest import (
    ADAPTER,
    MODEL,
    RESUME,
    TOKENIZER,
    Push,
    save_checkpoint,
    save_final,
    write_files,
    write_manifest,
)
from tests.loopback.hub import Hub

REPO = "team/chat"


def in_folder(folder: str, names: set[str]) -> set[str]:
    return {f"{folder}/{name}" for name in names}


def notes(run: RunDirectory) -> list[str]:
    return [event["text"] for event in read_events(run.events_jsonl) if event["event"] == "note"]


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


def test_a_save_of_shards_only_is_passed_over_and_said(hub: Hub, run: RunDirectory, push: Push) -> None:
    save_checkpoint(run, 3, {"config.json", "pytorch_model_fsdp_0/__0_0.distcp"} | TOKENIZER)
    assert request_push(run, HubSettings(repo=REPO), "save", 3) is None
    assert notes(run) == ["not pushed: checkpoint-3 holds no weights that load by themselves, only shards"]
    assert push() == DeliveryReport()
    assert hub.repositories == {}


def test_shards_are_what_a_resume_needs(hub: Hub, run: RunDirectory, push: Push) -> None:
    shards = {
        "pytorch_model_fsdp_0/__0_0.distcp",
        "pytorch_model_fsdp_0/.metadata",
        "optimizer_0/__0_0.distcp",
    }
    zero = {"latest", "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt"}
    others = {"notes.txt", ".env", "wandb/run.log", "zero_to_fp32.py"}
    save_checkpoint(run, 3, shards | zero | others | {"config.json"})
    request_push(run, HubSettings(repo=REPO, strategy="checkpoint"), "save", 3)
    assert push().problem is None
    assert set(hub.files(REPO)) == in_folder("last-checkpoint", shards | zero | RESUME | {"config.json"})


def test_a_checkpoint_with_a_manifest_is_what_that_lists(hub: Hub, run: RunDirectory, push: Push) -> None:
    directory = save_checkpoint(run, 3)
    listed = MODEL | TOKENIZER | RESUME | {"a_new_state.pt"}
    write_files(directory, {"a_new_state.pt", "a_stray.pt"}, "step 3")
    write_manifest(directory, listed | {"README.md", "training_args.bin"})
    request_push(run, HubSettings(repo=REPO, strategy="all_checkpoints"), "save", 3)
    assert push().problem is None
    assert set(hub.files(REPO)) == MODEL | TOKENIZER | in_folder("checkpoint-3", listed | {"manifest.json"})


def test_every_name_that_transformers_gives_a_resume_file_is_known() -> None:
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    trainer = (Path(spec.origin).parent / "trainer.py").read_text(encoding="utf-8")
    names = dict(re.findall(r"^([A-Z_]+_NAME(?:_BIN)?) = \"(.+)\"$", trainer, re.MULTILINE))
    assert names.pop("TRAINING_ARGS_NAME") == "training_args.bin"
    assert names.pop("FSDP_MODEL_NAME") + ".bin" in RESUME_PATTERNS
    assert len(names) >= 5
    assert set(names.values()) <= set(RESUME_PATTERNS)


def test_descriptions_that_name_local_paths_go_as_they_are_and_that_is_said(
    hub: Hub, run: RunDirectory, push: Push
) -> None:
    directory = save_checkpoint(run, 3, ADAPTER | TOKENIZER)
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "/data/models/base"}')
    (directory / "trainer_state.json").write_text('{"best_model_checkpoint": "/runs/chat/checkpoint-3"}')
    request_push(run, HubSettings(repo=REPO, strategy="checkpoint"), "save", 3)
    assert push().problem is None
    assert notes(run) == [
        "pushed as they are, and they name paths of this machine: adapter_config.json,"
        " last-checkpoint/adapter_config.json, last-checkpoint/trainer_state.json"
    ]
    for name in ("adapter_config.json", "trainer_state.json"):
        assert hub.files(REPO)[f"last-checkpoint/{name}"] == (directory / name).read_bytes()


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
    push()
    assert notes(run) == ["README.md stays here: its base_model is a local path"]
    assert set(hub.files(REPO)) == MODEL | TOKENIZER
