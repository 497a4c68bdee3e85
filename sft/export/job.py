"""What an evaluation is, as it is handed to the processes that do it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from sft.export.samples import EvalSample
from sft.export.subject import Subject

Side = Literal["base", "tuned"]
SIDES: tuple[Side, ...] = ("base", "tuned")
FAILED = "rank-{}.failed.json"
"""Where a process leaves what the user can mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One evaluation.

    Attributes:
        adapter: the one of the subject's that is measured; empty where the whole model was trained.
        metrics: as the user wrote them; loss and perplexity are always measured.
        rows: the data set's own rows by file and number, for functions that take them.
        processes: each takes every N-th sample.
        max_new_tokens: of an answer; None is twice the longest reference.
        device: cpu, cuda or auto.
    """

    subject: Subject
    adapter: str
    samples: list[EvalSample]
    metrics: tuple[str, ...]
    rows: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    processes: int = 1
    batch_size: int = 1
    max_new_tokens: int | None = None
    device: str = "auto"
    dtype: str = "trained"
