"""How an answer is scored against its reference: exact match, ROUGE-L, or a function of the user's. Imports no torch."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from sft.config.kit import EVAL_METRICS
from sft.data.user_code import failing_line, load_object
from sft.errors import UserError
from sft.extras import missing_extra

FROM_LOSS = ("loss", "perplexity")
"""Metrics that need no answer: they are always measured."""
KEY = "eval_metrics"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of an answer.

    Attributes:
        name: what it is called in the results.
        reference: what the user wrote for it.
        takes_row: the function takes the row of the data set as well.
    """

    name: str
    reference: str
    function: Callable[..., Any]
    takes_row: bool = False

    def score(self, prediction: str, reference: str, row: Row | None, place: str) -> float:
        """Score one answer.

        Args:
            place: where the sample stands, for messages.

        Raises:
            UserError: the user's function raises, or returns no number.
        """
        given = (prediction, reference, dict(row or {})) if self.takes_row else (prediction, reference)
        try:
            value = self.function(*given)
        except Exception as error:
            raise UserError(
                f"{self.reference} raised {type(error).__name__} on the sample {place}: {error}",
                failing_line(error, self.function, self.reference) or self.reference,
                f"mend the function; it was given the prediction {_short(prediction)} and the reference {_short(reference)}",
            ) from error
        if not isinstance(value, Real) or not math.isfinite(value):
            raise UserError(
                f"{self.reference} returned {_short(value)} on the sample {place}, which is no finite number",
                self.reference,
                "return a number, such as 1.0 for a good answer and 0.0 for a bad one",
            )
        return float(value)


def load_metrics(names: Sequence[str], where: str = KEY) -> list[Metric]:
    """Make the metrics of answers that are asked for; loss and perplexity are none.

    Raises:
        UserError: there is no such metric, its package is missing, or the user's file cannot be imported.
    """
    found: dict[str, Metric] = {}
    for name in dict.fromkeys(names):
        if name in FROM_LOSS:
            continue
        metric = _metric(name, where)
        if metric.name in found or (metric.name in EVAL_METRICS and metric.reference != metric.name):
            raise UserError(f"two metrics are called {metric.name}", where, "give the function another name")
        found[metric.name] = metric
    return list(found.values())


def _metric(name: str, where: str) -> Metric:
    if name == "exact_match":
        return Metric(name, name, exact_match)
    if name == "rouge_l":
        return Metric(name, name, rouge_l())
    if ":" not in name:
        raise UserError(
            f"there is no metric {name!r}",
            where,
            f"one of: {', '.join(EVAL_METRICS)}; or a function of your own, as file.py:name or module:name",
        )
    function = load_object(name, where)
    if not callable(function):
        raise UserError(f"{name} is no function", where, "name one from (prediction, reference) to a number")
    return Metric(name.rpartition(":")[2], name, function, takes_row=_takes_row(name, function, where))


def _takes_row(name: str, function: Callable[..., Any], where: str) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, and silent about what it takes
        return False
    for given, takes in (((None,) * 3, True), ((None,) * 2, False)):
        try:
            signature.bind(*given)
        except TypeError:
            continue
        return takes
    raise UserError(
        f"{name} cannot be called as a metric: it takes {signature}",
        where,
        "let it take (prediction: str, reference: str), and a third for the row where it needs one",
    )


def exact_match(prediction: str, reference: str) -> float:
    """Whether the answer is the reference, white space around them aside."""
    return float(prediction.strip() == reference.strip())


class _Words:
    """Words of any language; those of ASCII as rouge-score's own tokenizer has them, which knows no others."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def rouge_l() -> Callable[[str, str], float]:
    """Return the F-measure of the longest common subsequence of words.

    Source:
        Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), by the package rouge-score.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise missing_extra("rouge_score") from None
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())

    def score(prediction: str, reference: str) -> float:
        return float(scorer.score(reference, prediction)["rougeL"].fmeasure)

    return score


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
