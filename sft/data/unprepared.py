"""Which data is not prepared before the training. Imports nothing that takes long."""

from __future__ import annotations

from sft.config.run import RunConfig


def unprepared_reason(config: RunConfig) -> str | None:
    """Say why a run's data is left to TRL, if it is."""
    mixed = bool(config.mixture.datasets)  # TRL reads dataset_streaming only where there is no mixture
    if config.mixture.streaming if mixed else config.script.dataset_streaming:
        return f"{'streaming' if mixed else 'dataset_streaming'}: rows are read while training, so nothing can be prepared or counted"
    return None
