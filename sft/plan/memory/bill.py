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
        shown = [line for line in self.lines if line.at_most]
        sizes = [(gib(line.likely), gib(line.at_most)) for line in shown]
        sizes.append((gib(self.likely), gib(self.at_most)))
        likely, at_most = (max(len(size) for size in column) for column in zip(*sizes, strict=True))
        likely, at_most = max(likely, len("likely")), max(at_most, len("at most"))
        title = max(len(self.title), *(len(line.name) + 2 for line in shown))
        rows = [f"{self.title:<{title}}  {'likely':>{likely}}  {'at most':>{at_most}}"]
        rows += [
            f"{'  ' + line.name:<{title}}  {size[0]:>{likely}}  {size[1]:>{at_most}}  {_mark(line)}{line.formula}"
            for line, size in zip(shown, sizes, strict=False)
        ]
        total = f"{'  together':<{title}}  {gib(self.likely):>{likely}}  {gib(self.at_most):>{at_most}}"
        if self.capacity is not None:
            total += f"    of {gib(self.capacity)}: {'fits' if self.fits else 'does not fit'}"
        return [*rows, total]


def _mark(line: Line) -> str:
    return "~ " if line.basis == "extrapolated" else "= " if line.basis == "exact" else "  "
