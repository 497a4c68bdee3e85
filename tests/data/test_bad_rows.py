"""Each bad row is refused with its whole message, and for the reason under which it is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.data.convert import Converter, ConvertSettings
from sft.data.sample import BadRow
from sft.errors import ExitCode, UserError
from tests.data.bad_rows import BAD_ROWS, BadRowCase


def converter(case: BadRowCase) -> Converter:
    settings = case.settings
    return Converter(
        ConvertSettings(
            text_field=settings.get("dataset_text_field", "text"),
            mapping=settings.get("dataset_mapping"),
            formatting_func=settings.get("formatting_func"),
        )
    )


@pytest.mark.parametrize("case", BAD_ROWS, ids=lambda case: case.name)
def test_bad_row_is_refused_with_the_fix(case: BadRowCase, tmp_path: Path) -> None:
    case = case.in_folder(tmp_path)
    convert = converter(case).convert
    for row in case.rows[:-1]:
        convert(dict(row))
    with pytest.raises((BadRow, UserError)) as caught:
        convert(dict(case.rows[-1]))
    error = caught.value
    if isinstance(error, UserError):
        (problem,) = error.problems
        assert (problem.what, problem.where, problem.fix) == (case.what, case.where, case.fix)
        assert (error.exit_code, case.reason) == (ExitCode.USAGE, None)
        return
    assert (error.what, error.fix) == (case.what, case.fix)
    assert (error.reason, error.malformed) == (case.reason, case.malformed)


def test_names_differ_and_phrases_differ() -> None:
    assert len({case.name for case in BAD_ROWS}) == len({case.phrase for case in BAD_ROWS}) == len(BAD_ROWS)
