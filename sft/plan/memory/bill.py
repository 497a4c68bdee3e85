"""The bill: what a step holds at its peak, line by line, with what each line goes by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sft.units import gib

Basis = Literal["exact", "measured", "extrapolated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One item.

    Attributes:
        likely, at_most: bytes.
        formula: what it goes by, in words; its source stands in docs/memory.md under the line's name.
        basis: "exact" to the byte; "measured" on tensors of real steps; "extrapolated" to what was not measured.
    """

    name: str
    likely: int
    at_most: int
    formula: str
    basis: Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What one device, or the memory of one machine, has to hold.

    Attributes:
        capacity: bytes that there are; None where nobody knows.
    """

    title: str
    lines: tuple[Line, ...]
    capacity: int | None = None

    @property
    def likely(self) -> int:
        """The sum that is most likely."""
        return sum(line.likely for line in self.lines)

    @property
    def at_most(self) -> int:
        """The sum of the bounds."""
        return sum(line.at_most for line in self.lines)

    @property
    def fits(self) -> bool:
        """Whether the bound is within what there is."""
        return self.capacity is None or self.at_most <= self.capacity

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types."""
        return {
            "lines": [asdict(line) for line in self.lines],
            "likely": self.likely,
            "at_most": self.at_most,
            "capacity": self.capacity,
            "fits": self.fits,
        }

    def table(self) -> list[str]:
        """Say it for people, in 80 columns."""
        rows = [f"{self.title:<20} {'likely':>9} {'at most':>9}"]
        rows += [
            f"  {line.name:<18} {gib(line.likely):>9} {gib(line.at_most):>9}  {_mark(line)}{line.formula}"
            for line in self.lines
            if line.at_most
        ]
        total = f"  {'together':<18} {gib(self.likely):>9} {gib(self.at_most):>9}"
        if self.capacity is not None:
            total += f"    of {gib(self.capacity)}: {'fits' if self.fits else 'does not fit'}"
        return [*rows, total]


def _mark(line: Line) -> str:
    return "~ " if line.basis == "extrapolated" else "= " if line.basis == "exact" else "  "
