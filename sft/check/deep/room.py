"""Whether this machine holds a rehearsal: its memory, its cores, the room below TMPDIR. Rough, and rather too careful."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.check.deep.cut import Cut
from sft.check.deep.launched import NotMadeError
from sft.check.disk import bill_of
from sft.check.filesystem import gib, room
from sft.config.run import RunConfig
from sft.machine import available_memory_bytes
from sft.plan.adapter import EMBEDDINGS, HEADS
from sft.plan.plan import Plan
from sft.plan.weights import Tensor

LIBRARIES_BYTES = int(1.2 * 2**30)
"""What a rank's libraries take."""
TRAINED_BYTES = 20
"""A trained weight in float32, its gradient, Adam's two moments, and a copy for the checkpoint."""
LOGITS_BYTES = 16
"""A logit in float32, its gradient, and what the loss makes of both."""
LONGEST_ROW = 512
MOST_PROCESSES = 8
"""More of them show nothing else."""
LEFT_BYTES = 1 << 28
"""Of the scratch file system, for the rows and what libraries write."""


def weights_of_a_token(tensors: Sequence[Tensor]) -> int:
    """Count the weights that a token is multiplied with: embeddings are only looked up, where a head stands beside them."""
    has_head = any(HEADS.search(tensor.name.removesuffix(".weight")) for tensor in tensors)
    return sum(tensor.count for tensor in tensors if not (has_head and EMBEDDINGS.search(tensor.name)))


def fitting_processes(
    config: RunConfig, plan: Plan, cut: Cut, *, cores: int, available_bytes: int | None = None
) -> int:
    """Return how many processes a rehearsal has: those of the run, as far as this machine can start them.

    Raises:
        NotMadeError: it holds not even two, or the one that the run has.
    """
    available = available_memory_bytes() if available_bytes is None else available_bytes
    least = min(plan.processes, 2)
    wanted = min(plan.processes, max(2, cores), MOST_PROCESSES)
    for processes in range(wanted, least - 1, -1):
        if (needed := memory_bytes(config, plan, cut, processes)) < available:
            return processes
    raise NotMadeError(
        f"it needs about {gib(needed)} of memory, and {gib(available)} are left",
        "make it on a machine that has more",
    )


def memory_bytes(config: RunConfig, plan: Plan, cut: Cut, processes: int) -> int:
    """Estimate what all processes take together."""
    loaded = 4 if config.model.dtype in (None, "float32") else 2
    model = cut.numbers * (TRAINED_BYTES if config.method == "full" else loaded)
    whole = model + (cut.numbers * loaded * (processes - 1) if plan.strategy.shards_parameters else 0)
    vocabulary = int(_language(cut.config).get("vocab_size") or 0)
    logits = vocabulary * LONGEST_ROW * LOGITS_BYTES
    return (whole if plan.strategy.shards_parameters else model * processes) + processes * (
        LIBRARIES_BYTES + logits
    )


def require_room(config: RunConfig, plan: Plan, cut: Cut, scratch: Path, *, beside: int) -> None:
    """Refuse a scratch directory that does not hold the model and what is saved of it.

    Args:
        config: of the rehearsal.
        beside: bytes of the tokenizer, which every checkpoint holds.

    Raises:
        NotMadeError: it does not.
    """
    bill = bill_of(config, plan, cut.tensors, beside=beside)
    needed = cut.bytes + 4 * bill.checkpoint_bytes + 2 * bill.model_bytes + bill.merged_bytes + LEFT_BYTES
    have = room(scratch)
    if needed > have.bytes:
        raise NotMadeError(
            f"it needs about {gib(needed)} in {have.place}, and {gib(have.bytes)} {have.bound}",
            "set TMPDIR to a directory that has room",
        )


def _language(config: dict[str, Any]) -> dict[str, Any]:
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config
