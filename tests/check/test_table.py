"""docs/check.md lists the checks that there are, and the corpus as it is."""

from __future__ import annotations

from collections import Counter

from sft.check.checks import NAMES, named
from tests.check import table
from tests.check.corpus.broken import BROKEN


def test_the_page_is_current() -> None:
    assert table.PART.read() == table.render(), "accept it with: python -m tests.check.table"


def test_every_check_has_a_name_of_its_own_and_every_case_one_that_there_is() -> None:
    names = [check.NAME for check in named()]
    assert len(set(names)) == len(names) == len(NAMES)
    assert {case.check for case in BROKEN} <= {*names, "", "plan"}
    assert [name for name, count in Counter(case.name for case in BROKEN).items() if count > 1] == []


def test_every_case_says_where_such_a_failure_was_reported() -> None:
    assert [case.name for case in BROKEN if not case.source.startswith("https://")] == []
