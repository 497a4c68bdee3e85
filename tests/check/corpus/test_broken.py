"""Every broken setup of the corpus is told before a launch, by the name of its cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.check.corpus.bench import Broken, make_bench, told
from tests.check.corpus.broken import BROKEN


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_it_is_told_before_a_launch(
    case: Broken, tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tmp_path, tiny_model, tiny_chats, monkeypatch)
    with bench.stack:
        case.build(bench)
        assert told(bench, case) is None
