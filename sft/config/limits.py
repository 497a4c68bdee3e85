"""How long each phase of a rank may go without progress before the run counts as hung."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sft.config.section import Section

Seconds = Annotated[float, Field(gt=0)]


class LimitsConfig(Section):
    """Seconds without progress, by phase. Progress is a new phase, a step, a micro-batch, a batch evaluated."""

    start: Seconds = 600.0
    """Seconds until every rank's process has begun, and then until it has imported its libraries."""
    meet: Seconds = 180.0
    """Seconds for the supervisors of all nodes to meet."""
    prepare: Seconds = 7200.0
    """Seconds that a rank may prepare its data."""
    load: Seconds = 1800.0
    """Seconds for the model to load and be laid over the ranks, up to the first step."""
    train: Seconds = 1800.0
    """Seconds for one micro-batch, or for the optimizer's step."""
    evaluate: Seconds = 3600.0
    """Seconds for one batch of an evaluation, or for its metrics."""
    save: Seconds = 3600.0
    """Seconds for one save."""
    export: Seconds = 3600.0
    """Seconds to write the final model."""
    leave: Seconds = 120.0
    """Seconds for the ranks to part once everything is written."""

    @property
    def longest_seconds(self) -> float:
        """The longest that a rank may have to wait for another."""
        limits: dict[str, float] = self.model_dump()
        return max(limits.values())
