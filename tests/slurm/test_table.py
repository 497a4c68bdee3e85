"""The page says what the slow tier has measured."""

from __future__ import annotations

from tests.slurm import table


def test_the_table_is_the_record() -> None:
    assert table.PART.read() == table.render(table.read()), "accept it with: python -m tests.slurm.table"
