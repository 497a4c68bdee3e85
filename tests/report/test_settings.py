"""`report_to`, and what makes restarts one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.errors import UserError
from sft.report import settings as module
from sft.report.settings import INTEGRATIONS, ReportSettings, run_id, split_report_to
from sft.rundir import RunDirectory
from tests.report.runs import WrittenRun, settings


@pytest.mark.parametrize(
    ("report_to", "views", "others"),
    [
        ("none", (), ()),
        (["none"], (), ()),
        (None, (), ()),
        ("wandb", ("wandb",), ()),
        ("all", ("wandb", "tensorboard", "trackio"), ()),
        (["mlflow", "trackio", "tensorboard"], ("tensorboard", "trackio"), ("mlflow",)),
    ],
)
def test_report_to_means_what_it_means_in_transformers(
    report_to: str | list[str] | None, views: tuple[str, ...], others: tuple[str, ...]
) -> None:
    assert split_report_to(report_to) == (views, others)


def test_the_known_integrations_are_those_of_the_installed_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(INTEGRATION_TO_CALLBACK) == INTEGRATIONS


def test_an_unknown_integration_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError) as refused:
        split_report_to(["wandb", "wanddb"])
    assert str(refused.value) == (
        "report_to 'wanddb' is not an integration that transformers knows\n"
        "  where: report_to\n"
        "  fix:   use none, all, or some of: azure_ml, clearml, codecarbon, comet_ml, dagshub, dvclive, flyte, "
        "kubeflow, mlflow, neptune, swanlab, tensorboard, trackio, wandb"
    )


def test_a_missing_library_is_told_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "installed", lambda view: view != "trackio")
    assert split_report_to("all") == (("wandb", "tensorboard"), ())
    with pytest.raises(UserError) as refused:
        split_report_to("trackio")
    assert "trackio" in refused.value.problems[0].what
    assert "sft[trackio]" in str(refused.value.problems[0].fix)


def test_settings_come_back_from_the_start_event_without_secrets() -> None:
    given = {
        "WANDB_PROJECT": "chats",
        "WANDB_ENTITY": "group",
        "WANDB_API_KEY": "0" * 40,
        "TENSORBOARD_LOGGING_DIR": "/scratch/boards",
    }
    report = settings("wandb", "tensorboard", run_name="first", environment=given)
    written = json.dumps(report.as_event())
    assert "0" * 40 not in written
    assert ReportSettings.from_event(json.loads(written)) == report


def test_names_recorded_at_the_first_start_win_over_those_of_the_place_that_syncs() -> None:
    report = settings("wandb", environment={"WANDB_PROJECT": "chats", "WANDB_NAME": "from the job"})
    here = {"WANDB_PROJECT": "elsewhere", "WANDB_ENTITY": "group"}
    assert report.wandb_names(here) == {"project": "chats", "name": "from the job", "entity": "group"}


def test_run_name_wins_over_the_environment_and_the_project_has_transformers_default() -> None:
    report = settings("wandb", run_name="mine", environment={"WANDB_NAME": "from the job"})
    assert report.wandb_names({}) == {"project": "huggingface", "name": "mine"}


def test_a_run_keeps_its_id_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    made = run_id(RunDirectory(tmp_path))
    assert len(made) == 8
    assert made != run_id(RunDirectory(tmp_path))
    run = WrittenRun(tmp_path, settings())
    run.start(run_id=made)
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert run_id(run.directory) == made
    assert run_id(RunDirectory(tmp_path / "new")) == "given"
