"""`RunConfig`: one run file as one frozen, typed tree."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sft.config.expand import PATH_KEYS, escape
from sft.config.kit import KitConfig, LaunchConfig
from sft.config.libraries import load_library
from sft.config.section import Section
from sft.rundir import RunDirectory

if TYPE_CHECKING:
    from sft.config.library import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig
else:
    _library = load_library()
    ScriptArguments = _library.ScriptArguments
    SFTConfig = _library.SFTConfig
    ModelConfig = _library.ModelConfig
    DatasetMixtureConfig = _library.DatasetMixtureConfig

DEFAULT_OUTPUT_DIR = "trainer_output"
"""Where transformers trains when no output_dir is given."""


class RunConfig(Section):
    """What one run file says. Flat in the file, in sections here, so that each part of the kit takes its own."""

    script: ScriptArguments = Field(default_factory=ScriptArguments)
    """Which data set."""
    training: SFTConfig = Field(default_factory=SFTConfig)
    """How to train."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    """Which model, in which precision, with which adapter."""
    mixture: DatasetMixtureConfig = Field(default_factory=DatasetMixtureConfig)
    """A mixture of data sets instead."""
    kit: KitConfig = Field(default_factory=KitConfig)
    """Flat keys of our own."""
    launch: LaunchConfig = Field(default_factory=LaunchConfig)
    """Where and on how many processes."""

    @property
    def run(self) -> RunDirectory:
        """The run directory of this file."""
        return RunDirectory(Path(self.training.output_dir or DEFAULT_OUTPUT_DIR).absolute())

    @property
    def is_quantized(self) -> bool:
        """Whether the base is loaded in 4 or 8 bit."""
        return self.model.load_in_4bit or self.model.load_in_8bit

    @property
    def method(self) -> Literal["full", "lora", "qlora"]:
        """What is trained: every weight, an adapter, or an adapter on a quantised base."""
        if not self.model.use_peft:
            return "full"
        return "qlora" if self.is_quantized else "lora"

    @property
    def mixed_precision(self) -> Literal["no", "bf16", "fp16"]:
        """The precision that the trainer computes in: TRL turns bf16 on where fp16 is not asked for."""
        if self.training.fp16:
            return "fp16"
        return "no" if self.training.bf16 is False else "bf16"

    def settings(self) -> dict[str, Any]:
        """Return what was set, flat, as a run file has it: what the libraries default to is left to them.

        Read again as a run file, it gives this config: the dollars of expanded paths are doubled.
        """
        flat: dict[str, Any] = {}
        for section in FLAT_SECTIONS:
            flat.update(getattr(self, section).model_dump(mode="json", exclude_unset=True))
        flat = {key: escape(value) if key in PATH_KEYS else value for key, value in flat.items()}
        launch = self.launch.model_dump(mode="json", exclude_unset=True)
        if "accelerate_config" in launch:
            launch["accelerate_config"] = escape(launch["accelerate_config"])
        if launch:
            flat["launch"] = launch
        return flat


FLAT_SECTIONS = ("script", "training", "model", "mixture", "kit")
"""The sections whose keys lie at the top of a run file."""


@cache
def section_of_key() -> dict[str, str]:
    """Map every flat key of a run file to the section that holds it."""
    owners: dict[str, str] = {}
    for section in FLAT_SECTIONS:
        model = RunConfig.model_fields[section].annotation
        assert isinstance(model, type)
        assert issubclass(model, Section)
        owners.update(dict.fromkeys(model.model_fields, section))
    return owners
