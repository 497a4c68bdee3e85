"""Whether what became of the rows is what the run file accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sft.data.block import SourceFile
from sft.data.ledger import SplitSummary
from sft.data.sample import BadRow
from sft.data.settings import PrepareSettings
from sft.data.work import LOST
from sft.errors import Problem, UserError


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not trained."""

    file: SourceFile
    number: int
    bad: BadRow

    @property
    def place(self) -> str:
        """Where the row stands."""
        return self.file.place(self.number)

    def line(self) -> dict[str, Any]:
        """Return its line of the ledger."""
        bad = self.bad
        return {
            "source": self.file.name,
            "row": self.number,
            "reason": bad.reason,
            "what": bad.what,
            "fix": bad.fix,
        }


def judge(
    role: str,
    summary: SplitSummary,
    dropped: Sequence[Dropped],
    full_lengths: Any,
    settings: PrepareSettings,
    first_of_shape: Mapping[tuple[str, str], str],
) -> None:
    """Refuse a split with malformed rows, with nothing left to train, or with too many answers cut.

    Raises:
        UserError: one problem a reason, each at its first row.
    """
    problems = []
    if settings.bad_rows == "refuse":
        problems = _by_reason([entry for entry in dropped if entry.bad.malformed])
        problems += _two_shapes(first_of_shape)
    if not problems and settings.strict and dropped:
        problems = _by_reason(dropped)
    if not problems and not summary.trained + summary.truncated:
        problems = _nothing_left(role, dropped)
    if not problems:
        problems = cut_answers(role, summary, full_lengths, settings)
    if problems:
        raise UserError.of(problems)


def _by_reason(dropped: Sequence[Dropped]) -> list[Problem]:
    """Tell the first row of every reason, and how many there are."""
    groups: dict[tuple[str, bool], list[Dropped]] = {}
    for entry in dropped:
        groups.setdefault((entry.bad.reason, entry.bad.malformed), []).append(entry)
    problems = []
    for entries in groups.values():
        first, more = entries[0], len(entries) - 1
        others = (
            f" (and {more:,} more {'row' if more == 1 else 'rows'}: {entries[0].bad.reason})" if more else ""
        )
        problems.append(Problem(f"{first.bad.what}{others}", first.place, first.bad.fix))
    return problems


def _two_shapes(first_of_shape: Mapping[tuple[str, str], str]) -> list[Problem]:
    """Refuse a data set whose rows are not all of one shape: part of it is rarely what was meant."""
    places: dict[str, list[tuple[str, str]]] = {}
    for (part, shape), place in first_of_shape.items():
        places.setdefault(part, []).append((shape, place))
    return [
        Problem(
            f"{part} has rows of {len(found)} shapes: "
            + ", ".join(f"{shape} (first at {place})" for shape, place in found),
            found[1][1],
            "make them one shape, or name them as the parts of a mixture under datasets:",
        )
        for part, found in places.items()
        if len(found) > 1
    ]


def _nothing_left(role: str, dropped: Sequence[Dropped]) -> list[Problem]:
    if not dropped:
        return [Problem(f"the {role} split has no rows", "dataset_name", "add rows")]
    return [
        Problem(f"no row of the {role} split is left to train, all {len(dropped):,} are dropped", None, None),
        *_by_reason(dropped),
    ]


def cut_answers(
    role: str, summary: SplitSummary, full_lengths: Any, settings: PrepareSettings
) -> list[Problem]:
    """Refuse a max_length that cuts too many answers: the model would not learn how they end."""
    rows = summary.trained + summary.truncated + summary.reasons.get(LOST, 0)
    share = summary.cut_answers / rows if rows else 0.0
    if share <= settings.max_cut_answers:
        return []
    enough = int(np.quantile(full_lengths, 0.99)) if len(full_lengths) else 0
    fix = f"max_length: {enough} (99% of these rows fit)"
    return [
        Problem(
            f"max_length {settings.max_length} cuts the answer off in {summary.cut_answers:,} of {rows:,} rows of the "
            f"{role} split ({share:.0%}, and max_cut_answers accepts {settings.max_cut_answers:.0%})",
            "max_length",
            f"set {fix}, or packing_strategy: bfd_split with packing, or max_cut_answers: 1 if that is meant",
        )
    ]
