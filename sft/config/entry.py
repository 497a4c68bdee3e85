"""One value of a run file and where it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Place = tuple[str | int, ...]
"""The way into a nested value: `(0, "path")` for the path of the first data set."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and its place: `run.yaml:14`, `--learning_rate`, `site.yaml:3`.

    `text` is the value as it was written, with every number, boolean and date still a string: what a key
    that is declared as text takes, so that `run_name: 010` keeps its zero. None where nothing was written
    (flags are words already, and converted values are ours). `lines` gives the members of nested values.
    """

    value: Any
    where: str
    text: Any = None
    lines: Mapping[Place, str] = field(default_factory=dict)
