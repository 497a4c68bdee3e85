"""The two splits of a run, checked before a model is loaded."""

from __future__ import annotations

from typing import Any

from trl.data_utils import is_conversational

from sft.config.run import RunConfig
from sft.data.source import check_columns, load_splits, pick_split
from sft.errors import UserError


def load_training_data(config: RunConfig) -> tuple[Any, Any | None]:
    """Return the training split, and the test split where the run evaluates.

    Raises:
        UserError: a split is missing or empty, has nothing to train on, or has no part that the asked-for loss
            could be taken of.
    """
    splits = load_splits(config.script, config.mixture)
    text_field, formatted = config.training.dataset_text_field, config.kit.formatting_func is not None
    train = pick_split(splits, config.script.dataset_train_split, "dataset_train_split")
    check_columns(train, text_field, formatted)
    _check_loss(config, train)
    if config.training.eval_strategy == "no":
        return train, None
    test = pick_split(splits, config.script.dataset_test_split, "dataset_test_split")
    check_columns(test, text_field, formatted)
    _check_loss(config, test)
    return train, test


def _check_loss(config: RunConfig, split: Any) -> None:
    """Refuse a loss on parts that the rows do not tell apart: TRL passes over the one, and meets the other late."""
    row = next(iter(split))
    if "input_ids" in row:
        return
    training, formatted = config.training, config.kit.formatting_func is not None
    if training.completion_only_loss and (formatted or not {"prompt", "completion"} <= set(row)):
        raise UserError(
            "completion_only_loss has no effect: the rows have no prompt and completion; they have "
            + ("what formatting_func returns" if formatted else ", ".join(row)),
            where="completion_only_loss",
            fix="remove it; for chats set assistant_only_loss: true",
        )
    if training.assistant_only_loss and (formatted or not is_conversational(row)):
        raise UserError(
            "assistant_only_loss needs chats, and the rows are none; they have "
            + ("what formatting_func returns" if formatted else ", ".join(row)),
            where="assistant_only_loss",
            fix="remove it; for columns prompt and completion the loss is on the completion alone",
        )
