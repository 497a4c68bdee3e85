"""The held-out rows as samples: packed ones apart, and where an answer begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.config.loader import LoadedRun, load_run
from sft.data.tokenizer import read_tokenizer
from sft.errors import UserError
from sft.export.samples import EvalSample, held_out, read_samples, source_rows
from sft.export.turns import Turns
from tests import tiny
from tests.export.taught import write_data

Read = Callable[..., LoadedRun]
TRAIN, TEST = tiny.chats(12)[:8], tiny.chats(12)[8:]


@pytest.fixture
def read(tmp_path: Path, tiny_model: Path) -> Read:
    """Read a run on a data set with four rows held out."""
    data = write_data(tmp_path / "data", TRAIN, TEST)

    def run(**settings: Any) -> LoadedRun:
        whole = {
            "model_name_or_path": tiny_model,
            "dataset_name": data,
            "assistant_only_loss": True,
        } | settings
        words = [word for key, value in whole.items() for word in (f"--{key}", str(value))]
        return load_run(None, [*words, "--output_dir", str(tmp_path / "out")], environment={})

    return run


def samples_of(loaded: LoadedRun, split: str = "test", limit: int | None = None) -> list[EvalSample]:
    loaded, entry = held_out(loaded, split, lambda line: None)
    return read_samples(entry, split, limit)


def texts(samples: list[EvalSample], model: Path) -> list[tuple[str, str]]:
    """Spell prompt and answer of each sample."""
    turns = Turns(read_tokenizer(str(model)))
    found = []
    for sample in samples:
        edges = sample.answer(turns.header())
        assert edges is not None
        start, stop = edges
        prompt = turns.tokenizer.decode(sample.input_ids[:start], skip_special_tokens=False)
        found.append((prompt, turns.decode(sample.input_ids[start:stop])))
    return found


def expected(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (
            f"<|im_start|>user\n{row['messages'][0]['content']}<|im_end|>\n<|im_start|>assistant\n",
            row["messages"][1]["content"],
        )
        for row in rows
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_strategy": "epoch"},
        {"eval_strategy": "epoch", "packing": True, "max_length": 128},
        {"eval_strategy": "epoch", "assistant_only_loss": False},
        {},  # without an evaluation while it trains
    ],
    ids=["as rows", "packed", "loss on everything", "not evaluated in training"],
)
def test_each_sample_is_alone_with_its_prompt_and_its_answer(
    settings: dict[str, Any], read: Read, tiny_model: Path
) -> None:
    samples = samples_of(read(**settings))
    assert sorted(texts(samples, tiny_model)) == sorted(expected(TEST))
    assert [sample.id for sample in samples] == [0, 1, 2, 3]
    assert sorted(sample.place.rpartition("/")[2] for sample in samples) == [
        f"test.jsonl:{n}" for n in (1, 2, 3, 4)
    ]
    if "packing" not in settings:
        assert [sample.place[-1] for sample in samples_of(read(**settings), limit=2)] == ["1", "2"]


def test_the_last_answer_of_a_longer_chat_is_the_one(read: Read, tiny_model: Path, tmp_path: Path) -> None:
    longer = [{"messages": [*TRAIN[0]["messages"], *TEST[0]["messages"]]}]
    data = write_data(tmp_path / "longer", TRAIN, longer)
    for only in (True, False):
        (found,) = texts(samples_of(read(dataset_name=data, assistant_only_loss=only)), tiny_model)
        assert found == (expected(TRAIN[:1])[0][0] + f"{TRAIN[0]['messages'][1]['content']}<|im_end|>\n" + expected(TEST)[0][0], TEST[0]["messages"][1]["content"])  # fmt: skip


def test_rows_that_were_held_out_by_a_fraction_are_the_ones(read: Read, tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "all.jsonl", TRAIN)
    loaded = read(dataset_name=file, validation_fraction=0.25, eval_strategy="epoch")
    held = {sample.place for sample in samples_of(loaded)}
    assert len(held) == 2
    assert held.isdisjoint({sample.place for sample in samples_of(loaded, "train")})


def test_a_run_that_holds_nothing_out_is_told_the_key_to_set(read: Read, tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "all.jsonl", TRAIN)
    with pytest.raises(UserError) as caught:
        samples_of(read(dataset_name=file))
    assert str(caught.value) == (
        "the run holds no rows out, so there is nothing to evaluate it on\n"
        "  where: --dataset_name\n"
        "  fix:   set validation_fraction: 0.05 and eval_strategy: epoch in the run file, and train again; or name a"
        " split that was not trained on with dataset_test_split"
    )


def test_the_rows_themselves_can_be_had(read: Read, tmp_path: Path) -> None:
    rows = [{**row, "level": number} for number, row in enumerate(TEST)]
    loaded = read(dataset_name=write_data(tmp_path / "more", TRAIN, rows), eval_strategy="epoch")
    samples = samples_of(loaded)
    found = source_rows(loaded, "test", samples[1:3])
    assert [found[sample.origin]["level"] for sample in samples[1:3] if sample.origin] == [1, 2]
    assert len(found) == 2
