"""The data of a run as the trainer takes it: prepared before the process group exists, or streamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.data.cache import Entry
from sft.data.prepare import handed_over, prepare
from sft.data.streaming import check_columns, load_streaming, pick_split
from sft.data.unprepared import unprepared_reason
from sft.errors import UserError


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Two splits; `entry` is where they were prepared, None where TRL tokenizes the rows as they stream by."""

    train: Any
    test: Any | None
    entry: Entry | None


def load_training_data(loaded: LoadedRun) -> TrainingData:
    """Open what the launch has prepared, or prepare it: whoever comes first does, the others wait on a lock.

    Called before the process group exists, so that no rank waits in a collective for another's tokenizing.

    Raises:
        UserError: the data is refused (see `sft.data.prepare`), or a streamed split cannot be trained.
    """
    config = loaded.config
    evaluates = config.training.eval_strategy != "no"
    if unprepared_reason(config) is not None:
        splits = load_streaming(config.script, config.mixture)
        train = _streamed(config, splits, config.script.dataset_train_split, "dataset_train_split")
        if not evaluates:
            return TrainingData(train, None, None)
        test = _streamed(config, splits, config.script.dataset_test_split, "dataset_test_split")
        return TrainingData(train, test, None)
    entry = handed_over() or prepare(loaded)
    return TrainingData(entry.dataset("train"), entry.dataset("test") if evaluates else None, entry)


def _streamed(config: RunConfig, splits: Any, name: str, key: str) -> Any:
    """Return a streamed split with columns that TRL trains on."""
    kit = config.kit
    for setting in ("formatting_func", "dataset_mapping", "validation_fraction"):
        if getattr(kit, setting) is not None:
            raise UserError(
                f"{setting} cannot be used on rows that are streamed",
                where=setting,
                fix="remove dataset_streaming: prepared data needs little memory, whatever its size",
            )
    split = pick_split(splits, name, key)
    check_columns(split, config.training.dataset_text_field, formatted=False)
    return split
