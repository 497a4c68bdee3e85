"""Combinations of settings that fail, do nothing, or train something else: one small rule each.

Every rule was found by running it, with trl 1.16, transformers 5.23, peft 0.21, accelerate 1.15, deepspeed 0.19.8
and bitsandbytes 0.50 on two CPU processes and a 0.1M-parameter Llama; docs/combinations.md holds the numbers.
What needs the model or the data to be known is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sft.config.run import RunConfig
from sft.errors import Problem
from sft.plan.combinations import optimizers, packing, training, weights
from sft.plan.plan import Plan

Rule = Callable[[RunConfig, Plan], Iterator[Problem]]
RULES: tuple[Rule, ...] = (*weights.RULES, *optimizers.RULES, *training.RULES, *packing.RULES)


def check_combinations(config: RunConfig, plan: Plan) -> list[Problem]:
    """Return every combination that cannot work; `where` of a problem is the key that it is about."""
    return [problem for rule in RULES for problem in rule(config, plan)]
