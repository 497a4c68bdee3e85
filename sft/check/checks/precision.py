"""Number types that train, but rarely what was meant."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.finding import Finding, warning
from sft.check.subject import Subject

NAME = "precision"
COST = "nothing"
NEEDS = "a plan"


def look(subject: Subject) -> Iterator[Finding]:
    """Warn of weights so short that an update is lost in them; DeepSpeed keeps float32 copies of them."""
    assert subject.plan is not None
    model = subject.config.model
    is_short = model.dtype in ("bfloat16", "float16")
    if not model.use_peft and is_short and not subject.plan.strategy.is_deepspeed:
        yield warning(
            f"full fine-tuning with weights in {model.dtype}: small updates are rounded away",
            subject.where("dtype"),
            "set dtype: float32, which mixed precision casts for speed; or a DeepSpeed strategy, which keeps float32"
            " copies",
        )
