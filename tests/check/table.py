"""The checks and the broken setups that they tell, in docs/check.md: `python -m tests.check.table` writes both tables.

They are read from the checks themselves and from the corpus.
"""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path

from sft.check.checks import named
from tests.check.corpus.broken import BROKEN
from tests.made_part import MadePart

PART = MadePart(Path(__file__).parents[2] / "docs" / "check.md", "tests.check.table")
NOT_PLANNED = {"": "reading the run file", "plan": "planning"}
"""What tells a broken setup before any check runs."""


def render() -> str:
    """Lay out one row a check, and one a broken setup."""
    told = Counter(case.check for case in BROKEN)
    checks = [["check", "what must hold", "needs", "reads or asks", "cases"]]
    for check in named():
        says = (inspect.getdoc(check) or "").splitlines()[0].rstrip(".")
        checks.append([check.NAME, says, check.NEEDS, check.COST, str(told[check.NAME] or "-")])
    broken = [["broken setup", "told by", "reported"]]
    broken += [[case.name, NOT_PLANNED.get(case.check, case.check), _link(case.source)] for case in BROKEN]
    return (
        f"## The checks\n\n{_table(checks)}\n"
        f"## Broken setups that are told\n\n{len(BROKEN)} of them, each a test.\n\n{_table(broken)}"
    )


def _table(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _link(address: str) -> str:
    """Show an address by what tells it apart."""
    shown = address.removeprefix("https://").removeprefix("github.com/").rstrip("/")
    if len(shown) > 60:
        shown = f"{shown.partition('/')[0]}: {shown.rpartition('/')[2]}"
    return f"[{shown}]({address})"


if __name__ == "__main__":
    PART.write(render())
