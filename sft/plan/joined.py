"""Rows that TRL's collator joins: without padding, a micro-batch is one long row.

FlashAttention's cost grows with the sum of its samples' squares. Every other implementation computes a whole mask and
pays for the square of the joined row, so there a micro-batch holds one row, and gradients accumulate over as many.
The loss of a step is divided by the tokens of the whole step, and stays what it was.
"""

from __future__ import annotations

from sft.config.run import RunConfig
from sft.plan.batch import Batch

KEEPS_SAMPLES_APART = ("bfd", "bfd_split")
"""Packing strategies under which TRL joins rows; `wrapped` makes plain ones."""


def joins_rows(config: RunConfig) -> bool:
    """Whether the rows of a micro-batch become one."""
    training = config.training
    return training.padding_free or (training.packing and training.packing_strategy in KEEPS_SAMPLES_APART)


def attention(config: RunConfig) -> str | None:
    """Return the implementation that is asked for; None leaves it to transformers, which takes sdpa or eager."""
    more = config.training.model_init_kwargs
    asked = more.get("attn_implementation") if isinstance(more, dict) else None
    return str(asked) if asked is not None else config.model.attn_implementation


def is_flash(implementation: str | None) -> bool:
    """Whether it is a FlashAttention, as transformers tells it: by the name, a kernel's repository included."""
    return implementation is not None and "flash" in implementation


def one_row_at_a_time(config: RunConfig, batch: Batch) -> Batch:
    """Turn joined rows of a micro-batch into accumulation, where joining them would cost their square.

    Layerwise optimizers are left as they are: they update within the backward pass and cannot accumulate.
    """
    layerwise = config.training.optim.endswith("_layerwise")
    if batch.micro_batch == 1 or layerwise or not joins_rows(config) or is_flash(attention(config)):
        return batch
    return Batch(1, batch.accumulation * batch.micro_batch, batch.processes)
