"""What the tests of trying a run share: one base, and what it has learned by heart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.taught import BEFORE, CHATS, LORA, teach, write_data, write_model_that_ends_otherwise


@pytest.fixture(scope="session")
def ends_otherwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose own end of sequence is not the end of a turn."""
    return write_model_that_ends_otherwise(tmp_path_factory.mktemp("otherwise") / "model")


@pytest.fixture(scope="session")
def five_chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five chats, the same to train on and to test on."""
    return write_data(tmp_path_factory.mktemp("five") / "data", CHATS)


@pytest.fixture(scope="session")
def full_run(ends_otherwise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every weight that knows five other chats."""
    place = tmp_path_factory.mktemp("full")
    data = write_data(place / "data", BEFORE)
    return teach(place, ends_otherwise, data, max_steps=100, learning_rate=5e-3)


@pytest.fixture(scope="session")
def lora_run(full_run: Path, five_chats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run upon that, which knows the five chats."""
    place = tmp_path_factory.mktemp("lora")
    return teach(place, full_run, five_chats, **LORA, max_steps=300, learning_rate=5e-3)
