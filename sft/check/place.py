"""Where a run's model lies on this machine, and its shape: from its own files, or as the Hub told it before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sft.check.needs import REPOSITORY, is_path
from sft.check.remembered import HubModel, remembered_of
from sft.config.run import RunConfig
from sft.plan.model_shape import read_model_shape
from sft.plan.read_shape import read_shape
from sft.plan.shape import Shape
from sft.plan.weights import Tensor, missing_weights, read_tensors


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is known of a run's model.

    Attributes:
        shape: None where it is no decoder that the kit knows.
        tensors: of all its weights, as its files have them; None where nobody has seen them.
        from_hub: the model on the Hub that this is of, where it is not here.
    """

    shape: Shape | None
    tensors: Sequence[Tensor] | None = None
    from_hub: HubModel | None = None

    @classmethod
    def of(cls, model: HubModel) -> KnownModel:
        """Take what the Hub has told."""
        return cls(model.shape, model.tensors, model)


UNKNOWN = KnownModel(None)


def model_directory(config: RunConfig) -> Path | None:
    """Return the model's own directory, or the Hub's cache of it; None where it is in neither."""
    name = config.model.model_name_or_path or ""
    if os.path.isdir(name):  # where Path.is_dir raises, nothing is there to read
        return Path(name)
    from sft.hub.cached import snapshot_of  # huggingface_hub takes a while to start

    return snapshot_of(name, config.model.model_revision)


def model_shape(config: RunConfig) -> Shape | None:
    """Read the shape of a run's model; None where it is not here, or of a kind that is not a decoder."""
    return _read(model_directory(config)).shape


def known_model(config: RunConfig, environment: Mapping[str, str]) -> KnownModel:
    """Say what is known of a run's model without asking anybody.

    Of a model in the Hub's cache without its weights (a tokenizer was fetched, or a download did not end) what is
    remembered says more.
    """
    directory = model_directory(config)
    found = _read(directory)
    if not is_left_to_hub(config) or (directory is not None and _is_whole(directory, found)):
        return found
    name, remembered = config.model.model_name_or_path or "", remembered_of(config, environment)
    model = remembered.find(name, remembered.commit_of(name, config.model.model_revision))
    return found if model is None else KnownModel.of(model)


def is_left_to_hub(config: RunConfig) -> bool:
    """Whether a run's model is named as the Hub names them, and not as a path."""
    name = config.model.model_name_or_path or ""
    return REPOSITORY.fullmatch(name) is not None and not is_path(name)


def is_only_on_hub(config: RunConfig) -> bool:
    """Whether a run's model is on the Hub, and its weights are not in the Hub's cache."""
    if not is_left_to_hub(config):
        return False
    directory = model_directory(config)
    return directory is None or not _is_whole(directory, _read(directory))


def _read(directory: Path | None) -> KnownModel:
    if directory is None:
        return UNKNOWN
    tensors = read_tensors(directory)
    return KnownModel(read_shape(read_model_shape(str(directory)), tensors), tensors)


def _is_whole(directory: Path, found: KnownModel) -> bool:
    has_config = (directory / "config.json").is_file()
    return has_config and (found.tensors is not None or not missing_weights(directory))
