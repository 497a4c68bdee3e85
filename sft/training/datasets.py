"""The two splits of a run, checked before a model is loaded."""

from __future__ import annotations

from typing import Any

from sft.config.run import RunConfig
from sft.data.source import check_columns, load_splits, pick_split


def load_training_data(config: RunConfig) -> tuple[Any, Any | None]:
    """Return the training split, and the test split where the run evaluates.

    Raises:
        UserError: a split is missing or empty, or has nothing to train on.
    """
    splits = load_splits(config.script, config.mixture)
    text_field, formatted = config.training.dataset_text_field, config.kit.formatting_func is not None
    train = pick_split(splits, config.script.dataset_train_split, "dataset_train_split")
    check_columns(train, text_field, formatted)
    if config.training.eval_strategy == "no":
        return train, None
    test = pick_split(splits, config.script.dataset_test_split, "dataset_test_split")
    check_columns(test, text_field, formatted)
    return train, test
