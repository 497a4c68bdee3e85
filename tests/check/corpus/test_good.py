"""In a good setup nothing is found but notes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.check.corpus.bench import Bench, make_bench
from tests.check.corpus.families import FAMILIES, with_family, write_family
from tests.check.corpus.good import GOOD, LORA, OF_THE_SETUP, Good

FULL: dict[str, Any] = {}
# PEFT takes no dropout on experts, which all-linear names as well.
METHODS = {"full": FULL, "lora": {**LORA, "lora_target_modules": "all-linear", "lora_dropout": 0.0}}


@pytest.fixture(scope="module")
def families(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the model of a family, made once."""
    place = tmp_path_factory.mktemp("families")
    return cache(lambda family: write_family(place / family, family, tiny_model))


def found(bench: Bench, checks: tuple[str, ...]) -> list[str]:
    """Look, and return what is more than a note."""
    with bench.stack:
        findings = bench.look(checks).findings
    return [f"[{one.check}] {one}" for one in findings if one.gravity != "note"]


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_good_setup_is_left_alone(
    case: Good, tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tmp_path, tiny_model, tiny_chats, monkeypatch)
    case.build(bench)
    assert found(bench, OF_THE_SETUP) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_any_family_is_left_alone(
    family: str,
    method: str,
    families: Callable[[str], Path],
    tiny_model: Path,
    tiny_chats: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = make_bench(tmp_path, tiny_model, tiny_chats, monkeypatch)
    with_family(bench, families(family))
    bench.settings |= METHODS[method]
    # Its rows are left out: most families' tokenizers are loaded through transformers, which takes seconds.
    assert found(bench, tuple(name for name in OF_THE_SETUP if name != "rows")) == []
