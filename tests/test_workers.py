"""The table of what shares a worker names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.workers import SHARED

ROOT = Path(__file__).resolve().parents[1]
IDS = [
    f"{path.relative_to(ROOT)}::{name}[lora-ddp]"
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize(("pattern", "shared"), SHARED)
def test_a_pattern_is_of_tests_that_there_are(pattern: str, shared: str) -> None:
    assert [one for one in IDS if re.match(pattern, one)]
