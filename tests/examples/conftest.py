"""Where the examples run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.running import furnish


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path) -> Path:
    """A directory as the quickstart leaves it."""
    return furnish(tmp_path, tiny_model)
