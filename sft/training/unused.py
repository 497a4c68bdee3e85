"""Leave out what a run does not use, which the libraries import because it is installed.

`from trl import SFTTrainer` imports bitsandbytes (and with it torch's compiler) and wandb wherever they are
installed, and the first save imports deepspeed: a third of the time to the first step, in every rank. A package
whose entry in `sys.modules` is None counts as not installed, for `import` and for `importlib.util.find_spec`
alike (Python's reference, "The module cache"), so that each library takes its own path for a machine without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from sft.config.run import RunConfig

TORCH_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
"""Optimizers that surely need no bitsandbytes; galore-torch, for one, imports it for all of its own."""


def leave_out(config: RunConfig) -> None:
    """Hide the packages that this run cannot need, for the rest of the process. Call it before torch is imported."""
    for name in not_needed(config):
        if name not in sys.modules:
            sys.modules[name] = None  # type: ignore[assignment]


def not_needed(config: RunConfig) -> Iterator[str]:
    """Yield the packages that a run cannot need; where code that is not ours runs, there are none."""
    training, kit = config.training, config.kit
    if kit.callbacks or kit.formatting_func or kit.compute_metrics or training.trust_remote_code:
        return
    reports = [training.report_to] if isinstance(training.report_to, str) else training.report_to or []
    if not {"wandb", "all"} & set(reports):
        yield "wandb"
    if training.deepspeed is None and os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        yield "deepspeed"
    if not config.is_quantized and training.optim in TORCH_OPTIMIZERS and _is_plain(config):
        yield "bitsandbytes"


def _is_plain(config: RunConfig) -> bool:
    """Whether the model is known not to be quantised already, by its own config.json on this machine."""
    name = config.model.model_name_or_path
    if name is None or config.training.model_init_kwargs:
        return False
    path = Path(name, "config.json")
    if not Path(name).is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, "config.json", revision=config.model.model_revision)
        if not isinstance(cached, str):
            return False
        path = Path(cached)
    return path.is_file() and '"quantization_config"' not in path.read_text(encoding="utf-8")
