"""Evaluation, early stopping, the best model, and callbacks: with functions from the user's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.errors import UserError
from tests import tiny
from tests.training.conftest import Train

METRICS = """
import numpy

SCORES = iter([1.0, 3.0, 2.0])


def score(prediction):
    return {"score": next(SCORES)}


def count(prediction):
    labels = prediction.label_ids
    return {"rows": len(labels), "tokens": int((labels != -100).sum())}
"""
CALLBACKS = """
from pathlib import Path

from transformers import TrainerCallback

HERE = Path(__file__).parent


class Witness(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        with (HERE / "seen").open("a") as file:
            file.write(f"{state.global_step} ")


instance = Witness()


class NoCallback:
    pass
"""


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """12 rows to train on and 7 to evaluate, three at a time."""
    rows = tiny.chats(19)
    (tmp_path / "data").mkdir()
    tiny.write_rows(tmp_path / "data" / "train.jsonl", rows[:12])
    tiny.write_rows(tmp_path / "data" / "test.jsonl", rows[12:])
    (tmp_path / "metrics.py").write_text(METRICS)
    (tmp_path / "mine.py").write_text(CALLBACKS)
    return {
        "dataset_name": str(tmp_path / "data"),
        "eval_strategy": "steps",
        "eval_steps": 1,
        "per_device_eval_batch_size": 3,
    }


def test_metrics_of_the_users_own_see_every_sample_once(
    train: Train, data: dict[str, Any], tmp_path: Path
) -> None:
    trained = train(**data, compute_metrics=f"{tmp_path / 'metrics.py'}:count")
    evaluations = trained.of_kind("evaluate")
    assert [event["step"] for event in evaluations] == [1, 2, 3]
    tokens = sum(len(row) for row in trained.trainer.eval_dataset["input_ids"])
    assert [(event["eval_rows"], event["eval_tokens"]) for event in evaluations] == [(7, tokens)] * 3
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]


def test_early_stopping_ends_after_its_patience(train: Train, data: dict[str, Any]) -> None:
    """A learning rate of 0 improves nothing: best at step 1, without improvement at 2 and 3."""
    trained = train(
        **data,
        learning_rate=0.0,
        max_steps=9,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        early_stopping_patience=2,
    )
    assert [event["step"] for event in trained.of_kind("evaluate")] == [1, 2, 3]
    end = trained.of_kind("end")[0]
    assert (end["status"], end["exit_code"], end["step"]) == ("finished", 0, 3)


def test_early_stopping_threshold_is_how_much_better_counts(train: Train, data: dict[str, Any]) -> None:
    common = {"metric_for_best_model": "eval_loss", "max_steps": 4, "early_stopping_patience": 1}
    assert train(**data, **common).of_kind("end")[0]["step"] == 4
    assert train(**data, **common, early_stopping_threshold=5.0).of_kind("end")[0]["step"] == 2


def test_best_model_is_what_output_dir_holds(train: Train, data: dict[str, Any], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    trained = train(
        **data,
        compute_metrics=f"{tmp_path / 'metrics.py'}:score",
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        save_strategy="steps",
        save_steps=1,
    )
    assert [event["eval_score"] for event in trained.of_kind("evaluate")] == [1.0, 3.0, 2.0]
    name = "model.embed_tokens.weight"
    result, *steps = (
        load_file(path / "model.safetensors")[name]
        for path in (trained.run.output_dir, *(trained.run.output_dir / f"checkpoint-{n}" for n in (1, 2, 3)))
    )
    assert [torch.equal(result, step) for step in steps] == [False, True, False]


@pytest.mark.parametrize("name", ["Witness", "instance"])
def test_callback_from_a_file_is_a_class_or_an_instance(
    train: Train, data: dict[str, Any], tmp_path: Path, name: str
) -> None:
    train(dataset_name=data["dataset_name"], callbacks=[f"{tmp_path / 'mine.py'}:{name}"])
    assert (tmp_path / "seen").read_text() == "1 2 3 "


def test_callback_from_a_module(
    train: Train, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").rename(tmp_path / "callbacks_of_mine.py")
    monkeypatch.syspath_prepend(tmp_path)
    train(dataset_name=data["dataset_name"], callbacks=["callbacks_of_mine:Witness"])
    assert (tmp_path / "seen").read_text() == "1 2 3 "


def test_callback_that_is_none_is_refused(train: Train, data: dict[str, Any], tmp_path: Path) -> None:
    reference = f"{tmp_path / 'mine.py'}:NoCallback"
    with pytest.raises(UserError) as caught:
        train(dataset_name=data["dataset_name"], callbacks=[reference])
    assert str(caught.value) == (
        f"{reference} is no transformers.TrainerCallback\n"
        "  where: callbacks\n"
        "  fix:   derive it from TrainerCallback"
    )
