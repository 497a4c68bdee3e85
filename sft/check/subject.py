"""`Subject`: what every check looks at. Whatever several of them need is read once, when the first one asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.check.place import UNKNOWN, KnownModel, model_directory
from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.errors import Problem
from sft.plan.decide import Option
from sft.plan.gpus import GpuModel
from sft.plan.hardware import Hardware
from sft.plan.model_shape import read_model_shape
from sft.plan.plan import Plan
from sft.plan.reach import unreachable
from sft.plan.weights import Tensor, read_tensors

if TYPE_CHECKING:
    from sft.check.found import Found


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run file, and the machine that it is to run on.

    Attributes:
        loaded: the run file; one that cannot be read is no subject.
        plan: None where none could be made, which is told already.
        hardware: of this machine; of what the batch job asks for, with memory 0, where `in_batch`.
        environment: what the ranks will see: this process's variables and `env:` of the run file.
        in_batch: it runs elsewhere; this machine, a login node, need not be like those.
        on: where, as `sft launch --on` takes it; "here" without.
        gpu: the smallest that it runs on; None on the CPU, and where nobody has seen or named one.
        model: what is known of the model without asking, and `option` the plan's bill and time with it; None where that
            is not enough.
        path: the run file, and `words` what was set beside it.
    """

    loaded: LoadedRun
    plan: Plan | None
    hardware: Hardware
    environment: Mapping[str, str]
    in_batch: bool = False
    on: str = "here"
    path: Path | None = None
    words: tuple[str, ...] = ()
    offline: bool = False
    gpu: GpuModel | None = None
    model: KnownModel = UNKNOWN
    option: Option | None = None

    @property
    def config(self) -> RunConfig:
        """The settings."""
        return self.loaded.config

    def where(self, key: str) -> str:
        """Say where a key was set."""
        return self.loaded.where(key)

    @cached_property
    def model_directory(self) -> Path | None:
        """Where the model lies on this machine: its own directory, or the Hub's cache; None where it is in neither, or
        cannot be looked at."""
        is_locked = self.config.model.model_name_or_path in self.unreachable
        return None if is_locked else model_directory(self.config)

    @cached_property
    def unreachable(self) -> Mapping[str, Problem]:
        """Places of the run file that cannot be looked at, which is told already: no check needs to say it again."""
        return unreachable(self.loaded)

    @cached_property
    def model_config(self) -> dict[str, Any]:
        """The config.json of the model; empty where there is none to read."""
        return read_model_shape(str(self.model_directory)) if self.model_directory else {}

    @cached_property
    def tensors(self) -> list[Tensor] | None:
        """Names, shapes and types of the model's weights; None where they are not here, no safetensors, or torn."""
        return read_tensors(self.model_directory) if self.model_directory else None

    @cached_property
    def found(self) -> Found | None:
        """What a process without a network found of all that the run reads; None unless that was asked for."""
        if not self.offline or self.path is None:
            return None
        from sft.check.offline import look

        return look(self.path, self.words)
