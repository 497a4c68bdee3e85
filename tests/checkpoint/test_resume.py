"""Where a run continues, and what is refused because it would not be the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sft.checkpoint import resume
from sft.checkpoint.changes import DATA, HARMLESS, changes, exact_settings
from sft.checkpoint.manifest import NAME
from sft.checkpoint.needed import missing
from sft.config.kit import Strategy
from sft.config.loader import load_run
from sft.config.run import RunConfig, section_of_key
from sft.errors import UserError
from tests.checkpoint.made import FILES, make

LAUNCH = resume.Launch(Strategy.SINGLE, 1, 4, None)


def config_of(place: Path, **settings: Any) -> RunConfig:
    run_file = place / "run.yaml"
    with run_file.open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(
            {
                "model_name_or_path": "m",
                "dataset_name": "d.jsonl",
                "output_dir": str(place / "run"),
                **settings,
            },
            stream,
        )
    return load_run(run_file, []).config


def test_without_a_checkpoint_a_run_starts(tmp_path: Path) -> None:
    assert resume.choose(config_of(tmp_path), pytest.fail) is None


def test_the_newest_is_chosen_and_told(tmp_path: Path) -> None:
    for step in (4, 8):
        make(tmp_path / "run", step)
    for asked in ({}, {"resume_from_checkpoint": True}):
        found = resume.choose(config_of(tmp_path, **asked), pytest.fail)
        assert found is not None
        assert (found.path, found.step) == (tmp_path / "run" / "checkpoint-8", 8)
        assert found.told() == (
            "continuing from step 8: checkpoint-8, 6 files, 0.0 MiB, each with the hash that it was written with"
        )


REFUSED = {
    "none there": (
        True,
        "there is no complete checkpoint in {run}\n  where: resume_from_checkpoint\n"
        "  fix:   name one, or leave it out: `sft launch` continues what is there, and else starts",
    ),
    "not a checkpoint": (
        "{here}/nowhere",
        "{here}/nowhere is no checkpoint of a trainer\n  where: resume_from_checkpoint\n"
        "  fix:   name a checkpoint-<step> directory, which holds trainer_state.json",
    ),
    "a torn one by name": (
        "{here}/torn/checkpoint-4",
        "{here}/torn/checkpoint-4 is not whole: optimizer.pt is missing\n  where: resume_from_checkpoint\n"
        "  fix:   name another checkpoint",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_asked_for_and_not_there_is_refused(case: str, tmp_path: Path) -> None:
    (make(tmp_path / "torn", 4) / "optimizer.pt").unlink()
    asked, text = REFUSED[case]
    asked = asked.format(here=tmp_path) if isinstance(asked, str) else asked
    with pytest.raises(UserError) as caught:
        resume.choose(config_of(tmp_path, resume_from_checkpoint=asked), pytest.fail)
    assert str(caught.value) == text.format(here=tmp_path, run=tmp_path / "run")


def test_false_where_there_is_something_to_continue_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "run", 4)
    with pytest.raises(UserError) as caught:
        resume.choose(config_of(tmp_path, resume_from_checkpoint=False), pytest.fail)
    assert str(caught.value) == (
        f"{tmp_path}/run holds checkpoint-4, and the run is not to continue from it\n"
        "  where: resume_from_checkpoint\n"
        "  fix:   start with --fresh, which moves it aside, or set another output_dir"
    )


def test_a_fresh_start_deletes_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    path = make(tmp_path / "run", 4)
    said: list[str] = []
    resume.start_afresh(config.run, said.append)
    assert resume.choose(config, pytest.fail) is None
    assert said == [f"moved checkpoint-4 to {config.run.set_aside / 'checkpoint-4'}"]
    assert sorted(file.name for file in (config.run.set_aside / path.name).iterdir()) == sorted(
        {Path(name).parts[0] for name in FILES} | {NAME}
    )


def checked(place: Path, config: RunConfig, launch: resume.Launch = LAUNCH, **more: Any) -> list[str]:
    allow = more.pop("allow_changed", False)
    chosen = resume.named(make(place, 4, **{"settings": exact_settings(config), **more}))
    return resume.check(chosen, config, launch, allow_changed=allow)


def test_the_same_run_is_let_through(tmp_path: Path) -> None:
    assert checked(tmp_path / "there", config_of(tmp_path)) == []


LAUNCHES = {
    "strategy": (
        resume.Launch(Strategy.ZERO2, 1, 4, None),
        {"strategy": "ddp"},
        "checkpoint-4 lacks optimizer",
    ),
    "rows": (
        resume.Launch(Strategy.SINGLE, 1, 8, None),
        {},
        "checkpoint-4 was trained with 4 rows a step, and the run has 8: rows would be seen twice or never\n"
        "  where: total_train_batch_size\n"
        "  fix:   set total_train_batch_size: 4, or start anew with --fresh",
    ),
    "fsdp": (
        resume.Launch(Strategy.DDP, 1, 4, None),
        {"strategy": "fsdp2"},
        "checkpoint-4 was saved under fsdp2, and the run is launched under ddp: the optimizer's state of the one is"
        " not read by the other, and would start anew\n  where: strategy\n"
        "  fix:   launch with strategy: fsdp2, or start anew with --fresh",
    ),
}


@pytest.mark.parametrize("case", LAUNCHES)
def test_another_launch_is_refused(case: str, tmp_path: Path) -> None:
    launch, fields, text = LAUNCHES[case]
    with pytest.raises(UserError) as caught:
        checked(tmp_path / "there", config_of(tmp_path), launch, **fields)
    assert text in str(caught.value)


def test_single_and_ddp_read_each_others_and_another_number_of_ranks_is_no_reason(tmp_path: Path) -> None:
    launch = resume.Launch(Strategy.DDP, 2, 4, None)
    assert checked(tmp_path / "there", config_of(tmp_path), launch) == []


def test_rows_grouped_by_length_keep_their_number_of_ranks(tmp_path: Path) -> None:
    config = config_of(tmp_path, train_sampling_strategy="group_by_length")
    with pytest.raises(UserError, match="rows are grouped by length within what a process sees"):
        checked(tmp_path / "there", config, resume.Launch(Strategy.DDP, 2, 4, None))


def test_what_changed_is_told_field_by_field_and_allowed_by_name(tmp_path: Path) -> None:
    before = exact_settings(config_of(tmp_path, learning_rate=1e-4, max_steps=100))
    config = config_of(
        tmp_path, learning_rate=2e-4, max_steps=100, lora_r=8, logging_steps=3, report_to="wandb"
    )
    with pytest.raises(UserError) as caught:
        checked(tmp_path / "there", config, settings=before)
    assert str(caught.value) == (
        "the run file is not the one that checkpoint-4 was trained with: learning_rate: 0.0001 -> 0.0002;"
        " lora_r: 16 -> 8\n"
        f"  where: {tmp_path}/there/checkpoint-4/{NAME}\n"
        "  fix:   take the change back, start anew with --fresh, or go on all the same with --allow-changed"
    )
    assert checked(tmp_path / "there", config, settings=before, allow_changed=True) == [
        "changed since checkpoint-4: learning_rate: 0.0001 -> 0.0002",
        "changed since checkpoint-4: lora_r: 16 -> 8",
    ]


def test_prepared_data_stands_for_the_keys_that_made_it(tmp_path: Path) -> None:
    before, now = {"dataset_name": "a", "seed": 1}, {"dataset_name": "moved/a", "seed": 1}
    assert changes(before, now, same_data=True) == []
    assert changes(before, now, same_data=None) == ["dataset_name: a -> moved/a"]
    assert changes(before, now, same_data=False) == ["the prepared data: other rows, tokens or order"]


def test_every_key_that_is_left_out_of_the_comparison_is_one() -> None:
    assert {*HARMLESS, *DATA} - set(section_of_key()) == set()


@pytest.mark.parametrize(
    ("gone", "what"),
    [
        ("optimizer.pt", "optimizer (optimizer.pt)"),
        ("scheduler.pt", "schedule (scheduler.pt)"),
        ("rng_state.pth", "rng (rng_state.pth)"),
        ("adapter_model.safetensors", "weights (model.safetensors or adapter_model.safetensors)"),
    ],
)
def test_what_is_missing_is_refused_unless_it_is_named(gone: str, what: str, tmp_path: Path) -> None:
    path = make(tmp_path / "there", 4, {name: content for name, content in FILES.items() if name != gone})
    key = what.partition(" ")[0]
    with pytest.raises(UserError) as caught:
        resume.check(resume.named(path), config_of(tmp_path), LAUNCH, allow_changed=True)
    assert caught.value.problems[0].what == f"{path} lacks {what}"
    if key == "weights":
        assert caught.value.problems[0].fix == "name another checkpoint"
        return
    assert caught.value.problems[0].fix == (
        f"name another checkpoint, or set resume_without: [{key}] to go on with those anew"
    )
    config = config_of(tmp_path, resume_without=[key])
    notes = resume.check(resume.named(path), config, LAUNCH, allow_changed=True)
    assert notes[0] == f"continuing without {key}: {gone} is missing"


def test_deepspeed_needs_a_shard_a_rank() -> None:
    files = {"latest", "trainer_state.json", "scheduler.pt", "adapter_model.safetensors", "rng_state_0.pth"}
    files |= {"rng_state_1.pth", "global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt"}
    assert missing(files, Strategy.ZERO3, 2) == {"optimizer": "global_step*/*_optim_states.pt of 2 ranks"}


def test_a_checkpoint_of_another_program_is_taken_by_name_and_told(tmp_path: Path) -> None:
    path = make(tmp_path / "there", 4)
    (path / NAME).unlink()
    found = resume.named(path)
    assert (found.step, found.manifest) == (4, None)
    assert found.told() == (
        f"continuing from step 4: {path}, which has no {NAME}, so nothing of it is verified"
    )
    (path / "trainer_state.json").write_text(json.dumps({"global_step": None}))
    with pytest.raises(UserError, match="is torn"):
        resume.named(path)
