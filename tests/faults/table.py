"""What was tried, in docs/reliability.md: `python -m tests.faults.table` writes it from the record of the slow tier.

`pytest --slow tests/faults` leaves the record, `record.json` beside this file: fault -> strategy -> outcome -> times.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.made_part import MadePart

PART = MadePart(Path(__file__).parents[2] / "docs" / "reliability.md", "tests.faults.table")
RECORD = Path(__file__).with_name("record.json")
STRATEGIES = ("single", "ddp", "zero3")
Outcomes = Mapping[str, int]
Record = dict[str, dict[str, dict[str, int]]]


def killed_in(kind: str) -> str:
    """Name a kill by the kind of call that it came in."""
    return "SIGKILL in a write, half of it done" if kind == "write" else f"SIGKILL before a {kind}"


def read() -> Record:
    """Read the record."""
    found: Record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    return found


def record(strategy: str, found: Mapping[str, Outcomes]) -> None:
    """Put what one strategy's enumeration found into the record, for what it tried."""
    whole = read()
    for fault, outcomes in found.items():
        whole.setdefault(fault, {})[strategy] = dict(sorted(outcomes.items()))
    RECORD.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def kills(found: Record) -> int:
    """Count the kills."""
    return sum(
        times
        for fault, strategies in found.items()
        if fault.startswith("SIGKILL")
        for outcomes in strategies.values()
        for times in outcomes.values()
    )


def render(found: Record) -> str:
    """Lay the record out: one row a fault, one column a strategy."""
    lines = [["", *STRATEGIES], ["---"] * (len(STRATEGIES) + 1)]
    lines += [
        [fault, *(_cell(found[fault].get(strategy, {})) for strategy in STRATEGIES)]
        for fault in _ordered(found)
    ]
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return (
        f"{kills(found)} kills, each call of the save once; `from` is where the next start went on:\n\n{rows}"
    )


def _ordered(faults: Iterable[str]) -> list[str]:
    """Kills first."""
    return sorted(faults, key=lambda fault: (not fault.startswith("SIGKILL"), fault))


def _cell(outcomes: Outcomes) -> str:
    return ", ".join(f"{times} {outcome}" for outcome, times in outcomes.items()) or "-"


if __name__ == "__main__":
    PART.write(render(read()))
