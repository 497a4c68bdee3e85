"""What the checks of places say where the corpus has no case: machines of one run, steps that are not known, caches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sft.check.checks.homes import _bytes_by_name
from sft.check.local_rows import first_row, train_rows
from sft.check.try_writing import above, inodes_left, refusal
from sft.config.loader import load_run
from tests.check.corpus.bench import Bench, make_bench
from tests.check.corpus.of_run_place import checkpoint, in_use


@pytest.fixture
def bench(tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(tmp_path, tiny_model, tiny_chats, monkeypatch)


def found(bench: Bench, *checks: str) -> list[str]:
    """Look with some checks, and return what is more than a note."""
    with bench.stack:
        return [str(one) for one in bench.look(checks).findings if one.gravity != "note"]


def test_nothing_is_left_where_writing_was_tried(tmp_path: Path) -> None:
    before = os.listdir(tmp_path)
    assert refusal(tmp_path / "not" / "yet") is None
    assert above(tmp_path / "not" / "yet") == tmp_path
    assert os.listdir(tmp_path) == before
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert refusal(tmp_path / "gone" / "run") == (tmp_path / "gone", "it is a link to nothing")
    assert (inodes_left(tmp_path) or 1) > 0


def test_a_machine_that_joins_a_run_finds_machine_0_there(bench: Bench) -> None:
    in_use(bench)
    bench.launch(device="cpu", nodes=2, machine_rank=1, main_process_ip="127.0.0.1", main_process_port=29500)
    assert [line for line in found(bench, "output") if "in use" in line] == []


def test_a_job_may_wait_for_the_run_that_is_going_on(bench: Bench) -> None:
    in_use(bench)
    bench.in_batch = True
    bench.launch(device="cpu", processes_per_node=1)
    (told,) = found(bench, "output")
    assert told.startswith("warning: the run directory is in use by process ")


def test_a_lock_that_nobody_holds_is_left_alone(bench: Bench) -> None:
    in_use(bench)
    bench.stack.close()
    assert found(bench, "output") == []


def test_a_run_is_told_where_it_goes_on(bench: Bench) -> None:
    checkpoint(bench, 30)
    (note,) = bench.look(["continuing"]).findings
    assert str(note) == "note: output_dir holds checkpoint-30: the run goes on from there"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_train_epochs": 0}, "num_train_epochs 0 trains nothing"),
        ({"save_total_limit": 0}, "save_total_limit 0 is no limit"),
        (
            {
                "eval_strategy": "steps",
                "validation_fraction": 0.1,
                "load_best_model_at_end": True,
                "save_steps": 0.5,
                "eval_steps": 10,
            },
            "are counted in different ways",
        ),
        ({"eval_strategy": "steps", "validation_fraction": 0.1, "eval_delay": 9999}, "nothing is ever evaluated"),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit(bench: Bench, settings: dict[str, Any], said: str) -> None:
    bench.settings |= settings
    assert said in "\n".join(found(bench, "schedule"))


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup_steps": 2000, "packing": True, "packing_strategy": "bfd_split"},
        {"warmup_steps": 2000, "dataset_name": "org/chats"},
        {"warmup_steps": 2000, "dataset_streaming": True},
        {"warmup_steps": 0.5},
    ],
    ids=["rows-that-are-split", "on-the-hub", "streamed", "a-share"],
)
def test_where_the_steps_are_not_known_nothing_is_said(bench: Bench, settings: dict[str, Any]) -> None:
    bench.settings |= settings
    assert found(bench, "schedule") == []


def test_rows_are_counted_without_what_is_held_out(bench: Bench) -> None:
    words = ["--model_name_or_path", "m", "--dataset_name", str(bench.data)]
    assert train_rows(load_run(None, words).config) == 200
    held_out = [*words, "--eval_strategy", "steps", "--validation_fraction", "0.1"]
    assert train_rows(load_run(None, held_out).config) == 180
    assert set(first_row(load_run(None, words).config) or {}) == {"messages"}
    assert train_rows(load_run(None, [*words, "--dataset_train_split", "nothing"]).config) is None


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen3-8B", 8),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.5),
        ("mistralai/Mixtral-8x7B-v0.1", 56),
        ("meta-llama/Llama-3.1-70B", 70),
        ("openai-community/gpt2", None),
        ("org/model-v2b1", None),
    ],
)
def test_a_name_may_say_how_large_a_model_is(name: str, billions: float | None) -> None:
    assert _bytes_by_name(name) == (None if billions is None else int(billions * 2 * 10**9))
