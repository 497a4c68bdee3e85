"""The two splits of a run, checked and formatted before a model is loaded."""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from trl.data_utils import is_conversational

from sft.config.run import RunConfig
from sft.data.source import check_columns, load_splits, pick_split
from sft.data.user_code import load_object
from sft.errors import UserError


def load_training_data(config: RunConfig) -> tuple[Any, Any | None]:
    """Return the training split, and the test split where the run evaluates.

    Raises:
        UserError: a split is missing or empty, has nothing to train on, or has no part that the asked-for loss
            could be taken of.
    """
    splits = load_splits(config.script, config.mixture)
    train = _split(config, splits, config.script.dataset_train_split, "dataset_train_split")
    if config.training.eval_strategy == "no":
        return train, None
    return train, _split(config, splits, config.script.dataset_test_split, "dataset_test_split")


def _split(config: RunConfig, splits: Any, name: str, key: str) -> Any:
    split = pick_split(splits, name, key)
    formatting = config.kit.formatting_func
    check_columns(split, config.training.dataset_text_field, formatting is not None)
    _check_loss(config, split)
    return _formatted(split, formatting, config.training.dataset_text_field) if formatting else split


def _formatted(split: Any, reference: str, text_field: str) -> Any:
    """Turn each row into the text that the user's function makes of it.

    Not left to TRL: it adds the text as a column and then trains on the chat or the prompt beside it.
    """
    function = load_object(reference, "formatting_func")

    def to_text(row: Any) -> dict[str, str]:
        try:
            text = function(row)
        except Exception as error:
            raise UserError(
                f"{reference} fails on a row with {', '.join(row)}: {type(error).__name__}: {error}",
                where="formatting_func",
                fix="mend the function",
            ) from error
        if not isinstance(text, str):
            raise UserError(
                f"{reference} returns {type(text).__name__}, not text",
                where="formatting_func",
                fix="return the text of the one row that it is given",
            )
        return {text_field: text}

    with PartialState().main_process_first():
        return split.map(to_text, remove_columns=split.column_names)


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
