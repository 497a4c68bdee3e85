"""A bad file, or a bad way to it, is told with its place and remedy, and never with a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.errors import UserError
from tests.data.bad_files import BAD_FILES, BadFile
from tests.data.bad_run import read_all


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda bad: bad.name)
def test_a_bad_file_is_told_in_whole(tmp_path: Path, bad: BadFile) -> None:
    if bad.skip:
        pytest.skip(bad.skip)
    settings = bad.build(tmp_path)
    with pytest.raises(UserError) as caught:
        read_all(settings)
    assert str(caught.value) == bad.message.replace("{here}", str(tmp_path))
    assert caught.value.exit_code == bad.exit_code


def test_the_cases_have_names_of_their_own() -> None:
    names = [bad.name for bad in BAD_FILES]
    assert len(set(names)) == len(names) >= 32
