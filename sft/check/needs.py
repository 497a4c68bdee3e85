"""What of a run file lies on the Hub: which model, tokenizer, code and data sets. Nothing is asked or opened."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sft.config.run import RunConfig
from sft.data.locate import Wanted
from sft.data.readers.kinds import BUILDERS, kind_of
from sft.errors import ExitCode, UserError

LIKE_REPOSITORY = re.compile(r"[\w.-]+(?:/[\w.-]+)?", re.ASCII)
REPOSITORY = re.compile(r"(?!.*(?:--|\.\.|\.git$))(?:\b[\w.-]+\b/)?\b[\w.-]{1,96}\b", re.ASCII)
"""What the Hub takes as a name.

Source:
    huggingface_hub/utils/_validators.py, validate_repo_id.
"""
TEMPLATES = (".jinja", ".j2")
CACHE_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "SFT_CACHE")
"""Environment variables that say where fetched things lie."""


@dataclass(frozen=True, slots=True)
class ModelNeed:
    """A model that a run reads.

    Attributes:
        key: the key of the run file that names it.
        weights: whether its weights are loaded, or only its tokenizer.
        code: whether Python files of it are run (trust_remote_code).
    """

    name: str
    key: str
    revision: str | None = None
    weights: bool = True
    code: bool = False

    @property
    def is_on_hub(self) -> bool:
        """Whether it has to be fetched: it is no path."""
        return not is_path(self.name)


def is_path(name: str) -> bool:
    """Whether a name leads to a place on this machine."""
    return name.startswith(("/", "./", "../", "~")) or os.path.exists(name)


def model_needs(config: RunConfig) -> list[ModelNeed]:
    """List the models that a run reads: the one that it trains, and the one whose chat template it takes."""
    model, training = config.model, config.training
    assert model.model_name_or_path is not None
    code = training.trust_remote_code
    found = [ModelNeed(model.model_name_or_path, "model_name_or_path", model.model_revision, code=code)]
    template = training.chat_template_path
    if template is not None and not template.endswith(TEMPLATES):
        found.append(ModelNeed(template, "chat_template_path", weights=False, code=code))
    return found


def data_needs(config: RunConfig) -> list[Wanted]:
    """List the data sets that a run reads, wherever they lie."""
    script, kit = config.script, config.kit
    if kit.dataset_mixture is not None or config.mixture.datasets:
        from sft.data.mixture import from_trl, read_handbook_mixture  # numpy takes a while to start

        handbook = kit.dataset_mixture
        mixture = from_trl(config.mixture) if handbook is None else read_handbook_mixture(handbook)
        return [member.wanted for member in mixture.members]
    assert script.dataset_name is not None
    return [Wanted(script.dataset_name, "dataset_name", script.dataset_config)]


def is_data_on_hub(wanted: Wanted) -> bool:
    """Whether a data set is a repository of the Hub, as `sft.data.locate` reads its name."""
    name = wanted.path
    is_file = any(found is not None for found in kind_of(name))
    return (
        REPOSITORY.fullmatch(name) is not None
        and name not in BUILDERS
        and not is_file
        and not os.path.exists(name)
    )


def has_addresses(wanted: Wanted) -> bool:
    """Whether the files of a data set are named by address (`https://...`)."""
    files = wanted.data_files
    names = files.values() if isinstance(files, Mapping) else [files] if isinstance(files, str) else files
    return any("://" in str(name) for name in names or ())


def require_one_cache(config: RunConfig, environment: Mapping[str, str]) -> None:
    """Refuse a cache that only the ranks would use: what the login node fetches would lie elsewhere.

    Raises:
        UserError: `env:` sets a place of a cache that is not this process's.
    """
    for name in CACHE_VARIABLES:
        wanted = config.kit.env.get(name)
        if wanted is not None and environment.get(name) != wanted:
            raise UserError(
                f"env: sets {name} for the training processes alone: what is fetched here would not be found there",
                where="env",
                fix=f"export {name}={wanted} on the login node and in launch.setup, and remove it from env:",
                exit_code=ExitCode.ENVIRONMENT,
            )
