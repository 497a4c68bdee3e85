"""What is remembered of files that have not changed, and what is asked again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.check.answers import Answers, data_question, held_from_memory, remembered, states_of
from sft.check.finding import Finding, error, note, warning
from sft.check.local_rows import train_rows
from sft.config.loader import load_run
from sft.config.run import RunConfig
from sft.plan.memory.job import Job
from sft.plan.memory.step import held_by
from sft.plan.model_shape import read_model_shape
from sft.plan.read_shape import read_shape
from sft.plan.weights import read_tensors
from tests.check.made import write_run


@pytest.fixture
def config(tiny_model: Path, tiny_chats: Path, tmp_path: Path) -> RunConfig:
    data = tmp_path / "chats.jsonl"
    data.write_bytes(tiny_chats.read_bytes())
    settings = {"model_name_or_path": str(tiny_model), "dataset_name": str(data)}
    path = write_run(tmp_path, **settings, data_cache=str(tmp_path / "cache"))
    return load_run(path, environment={}).config


def test_a_question_is_answered_from_memory_until_a_file_of_it_changes(config: RunConfig) -> None:
    asked = []

    def look() -> Iterator[Finding]:
        asked.append(1)
        yield note("512 rows")
        yield warning("long rows", "max_length", "cut them")

    found = [remembered(config, data_question(config), look) for _ in range(2)]
    assert found[0] == found[1] == [note("512 rows"), warning("long rows", "max_length", "cut them")]
    assert len(asked) == 1
    data = Path(str(config.script.dataset_name))
    before = data.stat()
    data.write_bytes(data.read_bytes().replace(b"a", b"b", 1))
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))  # a rewriting that hides itself
    remembered(config, data_question(config), look)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "changes",
    [{"max_length": 77}, {"chat_template_path": "x.jinja"}, {"dataset_train_split": "test"}],
)
def test_other_settings_are_another_question(changes: dict[str, Any], config: RunConfig) -> None:
    section = "training" if "dataset_train_split" not in changes else "script"
    other = config.model_copy(update={section: getattr(config, section).model_copy(update=changes)})
    # model_copy leaves what was set as it was: settings() tells what the file says.
    getattr(other, section).model_fields_set.update(changes)
    assert data_question(other) != data_question(config)


def test_a_function_of_the_users_own_is_part_of_the_question(config: RunConfig, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("def row(one): return one\n")
    kit = config.kit.model_copy(update={"dataset_mapping": f"{source}:row"})
    own = config.model_copy(update={"kit": kit})
    before = data_question(own)
    source.write_text("def row(one): return None\n")
    assert data_question(own) != before


def test_the_files_of_a_mixture_are_part_of_the_question(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    data = tmp_path / "chats.jsonl"
    lines = tiny_chats.read_text().splitlines(keepends=True)
    data.write_text("".join(lines[:20]))
    mixture = {"datasets": [{"id": str(data)}]}
    settings = {"model_name_or_path": str(tiny_model), "dataset_mixture": mixture}
    path = write_run(tmp_path, **settings, data_cache=str(tmp_path / "cache"))
    config = load_run(path, environment={}).config
    assert [train_rows(config) for _ in range(2)] == [20, 20]
    data.write_text("".join(lines[:30]))
    assert train_rows(config) == 30


def test_rows_that_could_not_be_counted_are_counted_again(config: RunConfig) -> None:
    section = config.script.model_copy(update={"dataset_train_split": "nowhere"})
    section.model_fields_set.add("dataset_train_split")
    other = config.model_copy(update={"script": section})
    assert train_rows(other) is None
    assert not Answers(other).directory.exists()


def test_every_file_of_a_tokenizer_is_part_of_the_question(
    config: RunConfig, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    section = config.model.model_copy(update={"model_name_or_path": str(model)})
    own = config.model_copy(update={"model": section})
    questions = [data_question(own)]
    for name in ("tokenization_mine.py", "vocab.tiktoken", "additional_chat_templates/short.jinja"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("")
        questions.append(data_question(own))
    assert len({str(question) for question in questions}) == 4


def test_what_refuses_a_run_is_looked_at_each_time(config: RunConfig) -> None:
    asked = []

    def look() -> Iterator[Finding]:
        asked.append(1)
        yield error("no rows")

    for _ in range(2):
        assert remembered(config, {"what": "rows"}, look) == [error("no rows")]
    assert len(asked) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "nul"])
def test_an_answer_that_cannot_be_read_is_none(text: str, config: RunConfig) -> None:
    answers = Answers(config)
    answers.keep({"what": "rows"}, {"rows": 3})
    (place,) = answers.directory.iterdir()
    place.write_text(text)
    assert answers.find({"what": "rows"}) is None


def test_a_memory_that_cannot_be_written_costs_time_alone(config: RunConfig) -> None:
    answers = Answers(config)
    answers.directory.parent.mkdir(parents=True)
    answers.directory.write_text("a file")
    assert remembered(config, {"what": "rows"}, lambda: [note("3 rows")]) == [note("3 rows")]


def test_what_a_rank_holds_is_remembered_by_model_and_job(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(config.model.model_name_or_path)
    shape = read_shape(read_model_shape(model), read_tensors(Path(model)))
    assert shape is not None
    jobs = [Job(device="gpu", rows=rows, length=64, autocast=2) for rows in (1, 2)]
    wanted = [held_by(shape, job) for job in jobs]
    assert [held_from_memory(config)(shape, job) for job in jobs] == wanted
    other = dataclasses.replace(wanted[0], weights=1)
    monkeypatch.setattr("sft.check.answers.held_by", lambda shape, job: other)
    assert [held_from_memory(config)(shape, job) for job in jobs] == wanted
    deeper = dataclasses.replace(shape, layers=shape.layers * 2)
    assert held_from_memory(config)(deeper, jobs[0]) == other
    wider = dataclasses.replace(shape, tensors=shape.tensors[1:])
    assert held_from_memory(config)(wider, jobs[0]) == other


def test_a_directory_is_the_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.jsonl").write_text("{}")
    assert [Path(name).name for name, *_ in states_of([tmp_path / "a"])] == ["c.jsonl"]


def test_planned_again_no_row_is_read(config: RunConfig, tmp_path: Path) -> None:
    """Numpy, pyarrow, jinja2 and the tokenizers' library are what takes the time."""
    code = (
        "import sys, json; from sft.cli.main import main; code = main(sys.argv[1:]);"
        "slow = [name for name in ('numpy', 'pyarrow', 'jinja2', 'tokenizers', 'torch') if name in sys.modules];"
        "print(json.dumps([code, slow]), file=sys.stderr)"
    )
    loaded = []
    for _ in range(2):
        words = [
            sys.executable,
            "-c",
            code,
            "plan",
            str(tmp_path / "run.yaml"),
            "--gpu",
            "h100-80g",
            "--json",
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        loaded.append((json.loads(done.stderr.splitlines()[-1]), json.loads(done.stdout)["amount"]))
    (first, amount), (again, same) = loaded
    assert first[0] == again[0] == 0
    assert "tokenizers" in first[1]
    assert again[1] == []
    assert same == amount
