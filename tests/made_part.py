"""A part of a page of docs/ that a program writes, between two marks that stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

END = "<!-- end of what was tried -->\n"


@dataclass(frozen=True, slots=True)
class MadePart:
    """The part of a page that the module `maker` writes."""

    page: Path
    maker: str

    def _cut(self) -> tuple[str, str, str]:
        begin = f"<!-- made by `python -m {self.maker}` -->\n"
        before, mark, rest = self.page.read_text(encoding="utf-8").partition(begin)
        part, end, after = rest.partition(END)
        assert mark, f"{self.page} has no line {begin!r}"
        assert end, f"{self.page} has no line {END!r}"
        return before + mark, part, end + after

    def read(self) -> str:
        """Return what is on the page."""
        return self._cut()[1]

    def write(self, text: str) -> None:
        """Put another text there, and leave the rest of the page as it is."""
        before, _, after = self._cut()
        self.page.write_text(before + text + after, encoding="utf-8")
