"""The optional packages that a run file's settings need: looked for, never imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from sft.config.run import RunConfig
from sft.errors import ExitCode, UserError
from sft.extras import EXTRAS, missing_extra

OPTIMIZERS = {
    "galore_": "galore_torch",
    "apollo_": "apollo_torch",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free_": "schedulefree",
}
"""How the name of an optimizer begins -> the package that transformers imports once the model is loaded."""
NAMES = {"lomo_optim": "lomo-optim"}
"""Packages whose name on an index is not the one they are imported by."""


def require_packages(config: RunConfig) -> None:
    """Refuse a setting whose package is missing, before anything is loaded for it.

    Raises:
        UserError: with the command that installs it.
    """
    for package in _needed(config):
        if importlib.util.find_spec(package) is not None:
            continue
        if package in EXTRAS:
            raise missing_extra(package)
        raise UserError(
            f"the package {package} is not installed, which optim: {config.training.optim} needs",
            where="optim",
            fix=f"pip install {NAMES.get(package, package)}, or choose another optim",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _needed(config: RunConfig) -> Iterator[str]:
    # With the package `kernels`, transformers fetches a built FlashAttention instead.
    is_flash = config.model.attn_implementation == "flash_attention_2"
    if is_flash and importlib.util.find_spec("kernels") is None:
        yield "flash_attn"
    if config.training.use_liger_kernel:
        yield "liger_kernel"
    if "rouge_l" in config.kit.eval_metrics:
        yield "rouge_score"
    optim = config.training.optim
    yield from (package for start, package in OPTIMIZERS.items() if optim.startswith(start))
