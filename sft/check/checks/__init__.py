"""The checks: one module each, in the order in which their findings are told. docs/check.md lists them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sft.check.survey import Check

NAMES = (
    "combinations",
    "paths",
    "model_files",
    "model_kind",
    "model_weights",
    "tokenizer",
    "adapter",
    "schedule",
    "unusual",
    "output",
    "continuing",
    "homes",
    "hub_name",
    "packages",
    "versions",
    "variables",
    "gpus",
    "kernels",
    "limits",
    "ports",
    "wandb_key",
    "platform",
    "offline",
    "rows",
    "memory",
    "room",
    "precision",
    "caches",
    "slurm",
    "hub_access",
    "hub_shape",
    "wandb_server",
)


def named(names: Iterable[str] = NAMES) -> list[Check]:
    """Load some checks; a command that needs one does not pay for the others."""
    return [cast("Check", importlib.import_module(f"{__name__}.{name}")) for name in names]
