"""Numbers that are taken as they are and are rarely meant: a learning rate, a length."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.finding import Finding, warning
from sft.check.subject import Subject

NAME = "unusual numbers"
COST = "config.json"
NEEDS = "nothing"

HIGHEST_RATE = 0.01
"""Adapters are trained with some 1e-4, whole models with 1e-5: from here on a digit was lost, as in 2 for 2e-4."""
LOWEST_RATE = 1e-8
OWN_SCALE = ("sgd", "adafactor", "schedule_free", "lomo", "rmsprop", "adagrad")
"""Optimizers whose rates are on another scale."""
ABSOLUTE = ("gpt2", "gpt_neo", "opt", "gpt_bigcode", "xglm", "openai-gpt", "biogpt", "codegen", "ctrl")
"""Types that have a row of weights for each position."""


def look(subject: Subject) -> Iterator[Finding]:
    """Compare with what the field uses, and with what the model was made for."""
    yield from _rate(subject)
    yield from _length(subject)


def _rate(subject: Subject) -> Iterator[Finding]:
    training, where = subject.config.training, subject.where("learning_rate")
    rate, usual = training.learning_rate, "2e-4" if subject.config.model.use_peft else "2e-5"
    kind = "an adapter" if subject.config.model.use_peft else "a whole model"
    if training.optim.startswith(OWN_SCALE):
        return
    if rate > HIGHEST_RATE:
        yield warning(
            f"learning_rate {rate:g} is far above what {kind} is trained with", where, f"{usual} is usual"
        )
    elif 0 < rate < LOWEST_RATE:
        yield warning(f"learning_rate {rate:g} is so low that nothing is learned", where, f"{usual} is usual")


def _length(subject: Subject) -> Iterator[Finding]:
    """Tell of positions that the model has never seen; TRL's own default of 1,024 is nobody's choice."""
    training, config = subject.config.training, subject.model_config
    length = training.max_length
    if length is None or "max_length" not in subject.loaded.sources or training.model_init_kwargs:
        return
    positions = _positions(config)
    if positions is None or length <= positions:
        return
    if config.get("model_type") in ABSOLUTE:
        said = "it has no weights for later ones, and a longer row ends the run"
    else:
        said = "it was trained on no later ones"
    yield warning(
        f"max_length {length:,} is longer than the {positions:,} positions of the model: {said}",
        subject.where("max_length"),
        f"set max_length: {positions}, or give the model a rope_scaling that reaches as far",
    )


def _positions(config: dict[str, object]) -> int | None:
    """Return how far a model sees, with what its configuration stretches.

    Source:
        transformers/modeling_rope_utils.py: factor multiplies original_max_position_embeddings where that is given.
    """
    found = next(
        (config[key] for key in ("max_position_embeddings", "n_positions", "n_ctx") if key in config), None
    )
    if not isinstance(found, int) or found <= 0:
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    if not isinstance(scaling, dict) or not isinstance(factor, (int, float)):
        return found
    original = scaling.get("original_max_position_embeddings")
    return max(found, int((original if isinstance(original, int) else found) * factor))
