"""What became of every row: trained, truncated, or dropped with a reason. Sums and lines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class SplitSummary:
    """The sums of one split. rows_read = trained + truncated + dropped.

    Attributes:
        truncated: rows that max_length cut and that are trained all the same.
        cut_answers: rows of which max_length took tokens that carry loss, those dropped for it among them.
        tokens: in the rows that are trained, after truncation; trained_tokens of them carry loss.
        rows: what the trainer sees: packed rows under packing.
        reasons: dropped rows by reason.
        special_text: rows whose content spells a special token.
        differs: rows that TRL's training template renders otherwise than the model's own template.
        duplicates: rows whose tokens stood in this split before; duplicates_of_train: in the training split.
        shapes: rows by shape. masks: rows by what the mask was found by.
    """

    rows_read: int = 0
    trained: int = 0
    truncated: int = 0
    dropped: int = 0
    cut_answers: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    rows: int = 0
    packed: bool = False
    max_length: int | None = None
    special_text: int = 0
    differs: int = 0
    duplicates: int = 0
    duplicates_of_train: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SplitSummary:
        """Read what `to_json` wrote."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def lines(self, split: str) -> list[str]:
        """Say the sums for people."""
        shapes = ", ".join(f"{count:,} {name}" for name, count in self.shapes.items())
        told = [
            f"{split}: {self.rows_read:,} rows ({shapes or 'none'}): {self.trained:,} trained whole, "
            f"{self.truncated:,} truncated, {self.dropped:,} dropped",
            f"{split}: {self.tokens:,} tokens, {self.trained_tokens:,} of them carry loss "
            f"({_share(self.trained_tokens, self.tokens)}), found by {', '.join(self.masks) or 'nothing'}",
        ]
        if self.packed and self.max_length:
            told.append(
                f"{split}: packed into {self.rows:,} rows of {self.max_length:,}, "
                f"{_share(self.tokens, self.rows * self.max_length)} full"
            )
        told += [f"{split}: dropped {count:,}: {reason}" for reason, count in sorted(self.reasons.items())]
        if self.cut_answers:
            told.append(
                f"{split}: max_length {self.max_length} cuts the answers of {self.cut_answers:,} rows"
            )
        if self.special_text:
            told.append(
                f"{split}: {self.special_text:,} rows spell a special token in their content: kept as text"
            )
        if self.differs:
            told.append(
                f"{split}: TRL's training template renders {self.differs:,} rows otherwise than the model's own "
                "template does (it keeps what that one strips from earlier turns), and they are trained as it does"
            )
        if self.duplicates:
            told.append(f"{split}: {self.duplicates:,} rows are duplicates of earlier ones")
        if self.duplicates_of_train:
            told.append(f"{split}: {self.duplicates_of_train:,} rows stand in the training split too")
        return told


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "0%"
