"""Where a run's model lies on this machine, and its shape."""

from __future__ import annotations

from pathlib import Path

from sft.config.run import RunConfig
from sft.plan.model_shape import read_model_shape
from sft.plan.shape import Shape, read_shape
from sft.plan.weights import read_tensors


def model_directory(config: RunConfig) -> Path | None:
    """Return the model's own directory, or the Hub's cache of it; None where it is in neither."""
    name = config.model.model_name_or_path or ""
    if Path(name).is_dir():
        return Path(name)
    from sft.hub.cached import snapshot_of  # huggingface_hub takes a while to start

    return snapshot_of(name, config.model.model_revision)


def model_shape(config: RunConfig) -> Shape | None:
    """Read the shape of a run's model; None where it is not here, or of a kind that is not a decoder."""
    directory = model_directory(config)
    if directory is None:
        return None
    return read_shape(read_model_shape(str(directory)), read_tensors(directory))
