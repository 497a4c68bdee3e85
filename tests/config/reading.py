"""Write a run file and read it: what the tests of the loader share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from sft.config.loader import LoadedRun, load_run
from sft.errors import UserError

NEEDED = "model_name_or_path: model\ndataset_name: data\n"
"""The two lines that every run file has; a test's own text starts in line 3."""


def read(
    tmp_path: Path,
    text: str = "",
    words: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    head: str = NEEDED,
) -> LoadedRun:
    """Read a run file that holds `text`; only the given environment is seen."""
    path = tmp_path / "run.yaml"
    path.write_text(head + text, encoding="utf-8")
    return load_run(path, words, environment=environment or {})


def refusal(
    tmp_path: Path,
    text: str = "",
    words: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    head: str = NEEDED,
) -> str:
    """Return the whole message of the refusal, with the file's directory left out."""
    with pytest.raises(UserError) as caught:
        read(tmp_path, text, words, environment=environment, head=head)
    return str(caught.value).replace(f"{tmp_path}/", "")
