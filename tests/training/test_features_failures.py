"""What goes wrong says so, with its exit code: data before a model is loaded, a loss that is no number, resuming."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.errors import ExitCode, UserError
from sft.events import read_events
from sft.training.failure import explain
from tests.training.conftest import Train
from tests.training.here import read_settings


def phases(output_dir: Path) -> list[str]:
    events = read_events(output_dir / "_sft" / "events.jsonl")
    return [event["phase"] for event in events if event["event"] == "phase"]


DATA: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "missing file": (
        {},
        {"dataset_name": "{here}/gone.jsonl"},
        "there is no data set at {here}/gone.jsonl\n  where: {run}\n  fix:   check the path",
    ),
    "missing split": (
        {"train.jsonl": '{"text": "a"}\n'},
        {"dataset_name": "{here}/data", "eval_strategy": "steps", "eval_steps": 1},
        "the data set has no split 'test'\n  where: dataset_test_split\n"
        "  fix:   set dataset_test_split to one of: train; or hold rows out with validation_fraction; or set"
        " eval_strategy: no",
    ),
    "empty split": (
        {"train.jsonl": '{"text": "a"}\n', "test.jsonl": ""},
        {"dataset_name": "{here}/data", "eval_strategy": "steps", "eval_steps": 1},
        "the file is empty\n  where: {here}/data/test.jsonl\n  fix:   add rows, or remove the file",
    ),
    "wrong columns": (
        {"train.jsonl": '{"question": "a", "answer": "b"}\n'},
        {"dataset_name": "{here}/data"},
        "the columns question, answer fit no known shape (messages; prompt and completion; conversations; text;"
        " instruction and output; input_ids)\n  where: {here}/data/train.jsonl:1\n"
        "  fix:   set dataset_mapping: {{user: question, assistant: answer}}",
    ),
    "broken line": (
        {"train.jsonl": '{"text": "a"}\n{"text": "b"\n'},
        {"dataset_name": "{here}/data/train.jsonl"},
        "the line is not valid JSON: expecting ',' delimiter at column 13\n  where: {here}/data/train.jsonl:2\n"
        "  fix:   mend the line",
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_data_problem_is_told_before_a_model_is_loaded(train: Train, tmp_path: Path, name: str) -> None:
    files, more, text = DATA[name]
    (tmp_path / "data").mkdir()
    for file, content in files.items():
        (tmp_path / "data" / file).write_text(content)
    more = {
        key: value.format(here=tmp_path) if isinstance(value, str) else value for key, value in more.items()
    }
    with pytest.raises(UserError) as caught:
        train(**more)
    assert explain(caught.value)[0] == ExitCode.USAGE
    problem, run_file = str(caught.value), re.escape(str(tmp_path / "run1" / "run.yaml"))
    assert re.sub(rf"{run_file}:\d+", "{run}", problem) == text.format(here=tmp_path, run="{run}")
    assert phases(tmp_path / "run1" / "out") == []


def test_a_rank_ends_with_the_message_and_no_traceback(settings: dict[str, Any], tmp_path: Path) -> None:
    read_settings(tmp_path, {**settings, "dataset_name": str(tmp_path / "gone.jsonl")})
    done = subprocess.run(
        [sys.executable, "-m", "sft.training.train", "--config", str(tmp_path / "run.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.endswith(
        f"there is no data set at {tmp_path / 'gone.jsonl'}\n  where: {tmp_path / 'run.yaml'}:1\n  fix:   check the path\n"
    )
    assert "Traceback" not in done.stderr


def test_formatting_function_that_fails_is_told_as_the_users(train: Train, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def fails(row):\n    return row['no']\n\n\ndef lists(row):\n    return [row['messages'][0]['content']]\n"
    )
    for name, what in (
        ("fails", "fails on a row with messages: KeyError: 'no'"),
        ("lists", "returns list, not text"),
    ):
        reference = f"{tmp_path / 'mine.py'}:{name}"
        with pytest.raises(UserError) as caught:
            train(formatting_func=reference)
        assert re.sub(r"^\S+chats.jsonl:1: ", "", caught.value.problems[0].what) == f"{reference} {what}"
        assert caught.value.exit_code == ExitCode.USAGE


POISON = """
import torch
from transformers import TrainerCallback


class Poison(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == 1:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))
"""


def test_loss_that_is_no_number_ends_the_run_at_the_next_log(train: Train, tmp_path: Path) -> None:
    (tmp_path / "poison.py").write_text(POISON)
    with pytest.raises(UserError) as caught:
        train(callbacks=[f"{tmp_path / 'poison.py'}:Poison"], max_steps=9)
    events = tmp_path / "run1" / "out" / "_sft" / "events.jsonl"
    assert caught.value.exit_code == ExitCode.TRAINING_FAILED
    assert str(caught.value) == (
        f"grad_norm is nan at step 2\n  where: {events}\n"
        "  fix:   lower learning_rate, set max_grad_norm, or train in bf16; restarting would fail again"
    )


def test_loss_that_is_no_number_between_two_logs_is_not_lost(train: Train) -> None:
    """transformers logs the average of the losses that are numbers; a run shorter than logging_steps logs none."""
    with pytest.raises(UserError) as caught:
        train(learning_rate=1e30, logging_steps=10, max_steps=5)
    assert caught.value.exit_code == ExitCode.TRAINING_FAILED
    assert caught.value.problems[0].what == (
        "the loss of 3 of the last 5 micro-batches is no number, up to step 5"
    )


def test_resume_true_takes_the_newest_checkpoint_and_a_path_that_one(train: Train, tmp_path: Path) -> None:
    place = {"output_dir": str(tmp_path / "one"), "save_strategy": "steps", "save_steps": 1}
    whole = train(output_dir=str(tmp_path / "whole"), max_steps=4)
    train(**place, max_steps=3)
    newest = train(**place, max_steps=4, resume_from_checkpoint=True)
    named = train(**place, max_steps=4, resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-2"))
    assert [event["step"] for event in named.of_kind("start")] == [0, 3, 2]
    assert [event["step"] for event in newest.logs] == [1, 2, 3, 4, 3, 4]
    assert newest.losses[3:] == [whole.losses[3], whole.losses[2], whole.losses[3]]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (
            True,
            "there is no complete checkpoint in {out}\n  where: resume_from_checkpoint\n"
            "  fix:   name one, or leave it out: `sft launch` continues what is there, and else starts",
        ),
        (
            "{out}/checkpoint-7",
            "{out}/checkpoint-7 is no checkpoint of a trainer\n  where: resume_from_checkpoint\n"
            "  fix:   name a checkpoint-<step> directory, which holds trainer_state.json",
        ),
    ],
    ids=["none there", "no such path"],
)
def test_checkpoint_that_is_not_there_is_refused(train: Train, tmp_path: Path, asked: Any, text: str) -> None:
    out = tmp_path / "run1" / "out"
    with pytest.raises(UserError) as caught:
        train(resume_from_checkpoint=asked.format(out=out) if isinstance(asked, str) else asked)
    assert (caught.value.exit_code, str(caught.value)) == (ExitCode.USAGE, text.format(out=out))
