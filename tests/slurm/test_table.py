"""The page says what the slow tier has measured."""

from __future__ import annotations

from tests.slurm import table

BEFORE = table.read()
"""Read before the tests beside this one measure anew, where they are run too."""


def test_the_table_is_the_record() -> None:
    assert table.PART.read() == table.render(BEFORE), "accept it with: python -m tests.slurm.table"
