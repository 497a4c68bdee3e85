"""How much a run trains on: counted where that is cheap, else from the size of the files and the first rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.check import amount, local_rows
from sft.check.amount import Amount, amount_of
from sft.plan.hardware import Hardware
from sft.plan.plan import make_plan
from tests.training.here import read_settings

BATCH = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 5}


def look(directory: Path, model: Path, data: Path, **settings: Any) -> Amount | None:
    usual = {"model_name_or_path": str(model), "dataset_name": str(data), "use_cpu": True, **BATCH}
    loaded = read_settings(directory, {**usual, **settings})
    return amount_of(loaded, make_plan(loaded, Hardware((), (), 2, 16 << 30)))


def test_rows_are_counted_and_their_padding_is_added(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    rows = sum(1 for _ in tiny_chats.open())
    found = look(tmp_path, tiny_model, tiny_chats, max_length=256, num_train_epochs=2)
    assert found is not None
    assert (found.rows, found.is_counted) == (rows, True)
    assert found.steps == 2 * -(-rows // 10)
    assert found.longest is not None
    assert found.positions is not None
    assert found.positions <= found.longest <= 256
    alone = look(tmp_path, tiny_model, tiny_chats, max_length=256, per_device_train_batch_size=1)
    assert alone is not None
    assert alone.positions is not None
    assert alone.positions < found.positions  # one row is not padded to another
    assert (
        found.line() == f"{rows} rows of {found.positions:,.0f} tokens, padding included: {found.steps} steps"
    )


def test_packed_rows_are_full_and_fewer(tiny_model: Path, tiny_chats: Path, tmp_path: Path) -> None:
    plain = look(tmp_path, tiny_model, tiny_chats, max_length=512)
    packed = look(tmp_path, tiny_model, tiny_chats, max_length=512, packing=True, max_steps=7)
    assert plain is not None
    assert packed is not None
    assert packed.positions == 512
    assert packed.rows < plain.rows / 4
    assert packed.steps == 7
    assert packed.line().startswith("about ")


@pytest.mark.parametrize("layout", ["lines", "array", "indented array"])
def test_a_large_file_is_not_read_through(
    layout: str, tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tiny_chats.read_text().splitlines()
    rows, data = len(lines), tiny_chats
    if layout != "lines":
        data = tmp_path / "chats.json"
        indent = 2 if layout == "indented array" else None
        data.write_text(json.dumps([json.loads(line) for line in lines], indent=indent))
    monkeypatch.setattr(local_rows, "MOST_BYTES", 10)
    monkeypatch.setattr(amount, "SAMPLE_BYTES", data.stat().st_size // 3)
    found = look(tmp_path, tiny_model, data)
    assert found is not None
    assert not found.is_counted
    assert found.rows == pytest.approx(rows, rel=0.1)
    assert found.line().startswith("about ")


def test_a_row_longer_than_what_is_read_gives_no_estimate(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_rows, "MOST_BYTES", 10)
    monkeypatch.setattr(amount, "SAMPLE_BYTES", 20)
    data = tmp_path / "chats.jsonl"  # of which no answer is remembered
    data.write_bytes(tiny_chats.read_bytes())
    assert look(tmp_path, tiny_model, data) is None


def test_without_a_tokenizer_the_rows_are_known_and_their_length_is_not(
    tiny_chats: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    found = look(tmp_path, tmp_path / "model", tiny_chats)
    assert found is not None
    assert (found.positions, found.longest) == (None, None)
    assert look(tmp_path, tmp_path / "model", tiny_chats, packing=True) is None


def test_data_that_is_not_here_or_streamed_is_not_guessed(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    assert look(tmp_path, tiny_model, Path("org/data")) is None
    assert look(tmp_path, tiny_model, tiny_chats, dataset_streaming=True, max_steps=3) is None
