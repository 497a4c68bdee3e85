"""Events become rows."""

from __future__ import annotations

import math
from pathlib import Path

from sft.events import read_events
from sft.report.history import History, metric_name
from tests.report.runs import WrittenRun, settings


def test_metric_names_are_those_of_transformers_callbacks() -> None:
    from transformers.integrations.integration_utils import rewrite_logs

    keys = ["loss", "eval_loss", "eval_runtime", "test_accuracy", "learning_rate", "evaluation", "train_loss"]
    assert [metric_name(key) for key in keys] == list(rewrite_logs(dict.fromkeys(keys, 0)))


def test_a_row_holds_what_was_logged_and_evaluated_at_its_step(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path, settings("wandb"))
    run.start()
    run.train(1, 2, loss=3.0)
    run.evaluate(2, loss=2.5)
    run.log.write("save", step=2, path="checkpoint-2")
    run.log.write("log", step=2, train_runtime=12.5, total_flos=1e9, epoch=0.2)
    run.end(2)

    rows = History(read_events(run.directory.events_jsonl)).rows

    assert [(row.step, row.metrics, row.summary) for row in rows] == [
        (1, {"train/epoch": 0.1, "train/loss": 2.99}, {}),
        (
            2,
            {"train/epoch": 0.2, "train/loss": 2.98, "eval/loss": 2.5},
            {"train_runtime": 12.5, "total_flos": 1e9},
        ),
    ]


def test_steps_that_a_restart_repeats_keep_the_last_attempt(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path, settings("wandb"))
    run.start()
    run.train(8, 15, loss=3.0)
    run.start(step=10, run_id="another1")
    run.train(11, 12, loss=2.0)

    history = History(read_events(run.directory.events_jsonl))

    losses = {row.step: round(row.metrics["train/loss"], 2) for row in history.rows}
    assert losses == {8: 2.92, 9: 2.91, 10: 2.9, 11: 1.89, 12: 1.88}
    assert history.run_id == "run00001"


def test_numbers_that_are_not_finite_come_back_as_numbers(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path, settings("wandb"))
    run.start()
    run.log.write("log", step=1, loss=float("nan"), grad_norm=float("inf"), device="cuda")

    (row,) = History(read_events(run.directory.events_jsonl)).rows

    assert math.isnan(row.metrics["train/loss"])
    assert row.metrics["train/grad_norm"] == float("inf")
    assert set(row.metrics) == {"train/loss", "train/grad_norm"}
