"""Scores of answers: by name, and by functions from the user's own file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sft.errors import ExitCode, UserError
from sft.export.metrics import load_metrics

MINE = """
def share(prediction, reference):
    return len(prediction) / len(reference)


def with_row(prediction, reference, row):
    return row["weight"] * (prediction == reference)


def default(prediction, reference, row=None):
    return 1.0 if row is None else 2.0


def broken(prediction, reference):
    return 1 / (len(prediction) - 3)


def nothing(prediction, reference):
    return None


def alone(prediction):
    return 1.0


def exact_match(prediction, reference):
    return 0.5


constant = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return str(path)


def scored(name: str, prediction: str, reference: str, row: dict[str, object] | None = None) -> float:
    (metric,) = load_metrics([name])
    return metric.score(prediction, reference, row, "3 (chats.jsonl:17)")


def test_exact_match_passes_over_white_space_around() -> None:
    assert (scored("exact_match", " yes\n", "yes"), scored("exact_match", "Yes", "yes")) == (1.0, 0.0)


def test_rouge_l_is_the_packages_and_knows_words_of_any_language() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    pairs = [("The cat sat on a mat.", "A cat sat_on the mat!"), ("", "x"), ("x", ""), ("1 2 3", "3 2 1")]
    for prediction, reference in pairs:
        package = RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
        assert scored("rouge_l", prediction, reference) == package
    assert scored("rouge_l", "\u0434\u0430 \u043d\u0435\u0442", "\u0434\u0430") == pytest.approx(2 / 3)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match="the package rouge_score is not installed") as caught:
        load_metrics(["rouge_l"])
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_functions_of_the_users_own(mine: str) -> None:
    assert scored(f"{mine}:share", "ab", "abcd") == 0.5
    assert scored(f"{mine}:with_row", "a", "a", {"weight": 7}) == 7.0
    assert scored(f"{mine}:default", "a", "a", {"weight": 7}) == 2.0
    names = [metric.name for metric in load_metrics(["loss", f"{mine}:share", "exact_match", "perplexity"])]
    assert names == ["share", "exact_match"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bleu", "there is no metric 'bleu'"),
        ("{mine}:missing", "{mine} has no missing"),
        ("{mine}:constant", "{mine}:constant is no function"),
        ("{mine}:alone", "{mine}:alone cannot be called as a metric: it takes (prediction)"),
        ("{mine}:exact_match", "two metrics are called exact_match"),
        ("none.py:f", "there is no file none.py"),
    ],
)
def test_what_is_no_metric_is_told(name: str, told: str, mine: str) -> None:
    with pytest.raises(UserError) as caught:
        load_metrics([name.format(mine=mine)], "--tasks")
    assert caught.value.problems[0].what == told.format(mine=mine)


def test_a_function_that_raises_is_told_with_its_sample(mine: str) -> None:
    with pytest.raises(UserError) as caught:
        scored(f"{mine}:broken", "abc", "d")
    line = MINE[: MINE.index("return 1 / (len")].count("\n") + 1
    assert str(caught.value) == (
        f"{mine}:broken raised ZeroDivisionError on the sample 3 (chats.jsonl:17): division by zero\n"
        f"  where: {mine}:{line}\n"
        "  fix:   mend the function; it was given the prediction 'abc' and the reference 'd'"
    )
    with pytest.raises(UserError, match="returned None on the sample 3"):
        scored(f"{mine}:nothing", "a", "b")
