"""The page says what the exhaustive tier found."""

from __future__ import annotations

from tests.faults import table


def test_the_page_tells_the_record() -> None:
    assert table.PART.read() == table.render(table.read())


def test_the_record_holds_what_was_promised() -> None:
    found = table.read()
    assert table.kills(found) >= 200
    outcomes = {
        outcome
        for fault, strategies in found.items()
        if fault.startswith("SIGKILL")
        for cells in strategies.values()
        for outcome in cells
    }
    assert outcomes == {"from step 2", "from step 4"}
