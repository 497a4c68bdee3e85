"""What is on this machine of all that a run reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from sft.errors import Problem


@dataclass(slots=True)
class Found:
    """What is here of a run, and what is not.

    Attributes:
        places: the directories that the run reads: of its models, and of its prepared data.
        missing: what `sft fetch` has to bring: names of models and data sets, or the prepared data.
        model: the directory of the model that is trained.
        rows: how many rows it trains on.
        lines: for people.
    """

    places: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    model: str | None = None
    rows: int | None = None
    lines: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
