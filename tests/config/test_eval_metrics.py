"""`eval_metrics` of a run file: what cannot be measured is told before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sft.config.loader import load_run
from sft.errors import UserError
from sft.plan import packages
from sft.plan.packages import require_packages

HELD_OUT = {"eval_strategy": "epoch", "validation_fraction": 0.1}


def read(tmp_path: Path, settings: Mapping[str, Any]) -> Any:
    from ruamel.yaml import YAML

    path = tmp_path / "run.yaml"
    with path.open("w") as stream:
        YAML(typ="safe").dump({"model_name_or_path": "m", "dataset_name": "d", **settings}, stream)
    return load_run(path, environment={"HOME": "/home/me"}).config


@pytest.mark.parametrize(
    ("settings", "told", "fix"),
    [
        (
            {"eval_metrics": ["loss", "bleu"], **HELD_OUT},
            "there is no metric 'bleu'",
            "one of: loss, perplexity, exact_match, rouge_l; or a function of your own, as file.py:name or module:name",
        ),
        (
            {"eval_metrics": ["loss"]},
            "eval_metrics needs rows that are not trained on, and the run holds none out",
            "set eval_strategy: epoch, with validation_fraction: 0.05 where the data set has no test split",
        ),
        (
            {"eval_metrics": ["loss"], "dataset_streaming": True, "eval_strategy": "steps", "eval_steps": 1},
            "eval_metrics cannot be measured on rows that are streamed",
            "remove dataset_streaming, or eval_metrics",
        ),
    ],
)
def test_what_cannot_be_measured_is_told(
    settings: dict[str, Any], told: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, settings)
    (problem,) = caught.value.problems
    assert (problem.what, problem.fix) == (told, fix)
    assert problem.where is not None
    assert problem.where.startswith(f"{tmp_path}/run.yaml:")


def test_functions_may_be_named_with_a_home_and_one_metric_needs_no_list(tmp_path: Path) -> None:
    found = read(tmp_path, {"eval_metrics": ["exact_match", "~/mine.py:score"], **HELD_OUT})
    assert found.kit.eval_metrics == ["exact_match", "/home/me/mine.py:score"]
    assert read(tmp_path, {"eval_metrics": "rouge_l", "dataset_test_split": "test"}).kit.eval_metrics == [
        "rouge_l"
    ]


def test_a_missing_package_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read(tmp_path, {"eval_metrics": ["rouge_l"], **HELD_OUT})
    require_packages(config)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package rouge_score is not installed"):
        require_packages(config)
