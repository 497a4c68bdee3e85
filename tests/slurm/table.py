"""What a run survives on a cluster, in docs/cluster.md: `python -m tests.slurm.table` writes it from the slow tier's record.

`pytest --slow tests/slurm` leaves the record, `record.json` beside this file: fault -> what was measured.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.made_part import MadePart

PART = MadePart(Path(__file__).parents[2] / "docs" / "cluster.md", "tests.slurm.table")
RECORD = Path(__file__).with_name("record.json")
COLUMNS = ("fault", "steps trained again", "seconds until a step again", "the run")
Record = dict[str, dict[str, str]]


def read() -> Record:
    """Read the record."""
    found: Record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    return found


def record(fault: str, *, again: int | None, seconds: float | None, end: str) -> None:
    """Put what was measured of one fault into the record.

    Args:
        again: steps that were trained a second time; None where the run was not to go on.
        seconds: from the fault to the first step that is told after it.
    """
    whole = read()
    whole[fault] = {
        COLUMNS[1]: "-" if again is None else str(again),
        COLUMNS[2]: "-" if seconds is None else f"{seconds:.0f}",
        COLUMNS[3]: end,
    }
    RECORD.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def render(found: Record) -> str:
    """Lay the record out, one row a fault."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    lines += [[fault, *(measured[name] for name in COLUMNS[1:])] for fault, measured in sorted(found.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PART.write(render(read()))
