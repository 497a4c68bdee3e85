"""What the rows and the run file say together that trains, but is rarely what was meant."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.loader import LoadedRun
from sft.data.cache import Entry
from sft.errors import Problem


def advice(loaded: LoadedRun, entry: Entry) -> list[Problem]:
    """Return what a person should look at."""
    return [problem for rule in RULES for problem in rule(loaded, entry)]


def _users_turns(loaded: LoadedRun, entry: Entry) -> Iterator[Problem]:
    if "assistant_only_loss" in loaded.sources or "completion_only_loss" in loaded.sources:
        return
    chats = entry.summary("train").masks.get("the whole conversation", 0)
    if chats:
        yield Problem(
            f"{chats:,} chats are trained on the user's turns too (TRL's default)",
            "assistant_only_loss",
            "set assistant_only_loss: true, or false to say that it is meant",
        )


def _test_rows_in_train(loaded: LoadedRun, entry: Entry) -> Iterator[Problem]:
    if not entry.has("test"):
        return
    summary = entry.summary("test")
    if summary.duplicates_of_train:
        rows = summary.trained + summary.truncated
        yield Problem(
            f"{summary.duplicates_of_train:,} of {rows:,} test rows stand in the training split too: the evaluation "
            "will look better than it is",
            loaded.where("dataset_test_split"),
            "remove them from one of the two",
        )


def _answers_cut(loaded: LoadedRun, entry: Entry) -> Iterator[Problem]:
    summary = entry.summary("train")
    if summary.cut_answers:
        yield Problem(
            f"max_length {summary.max_length} cuts the answers of {summary.cut_answers:,} rows: their end is not learned",
            loaded.where("max_length"),
            f"raise max_length (the longest row has {int(entry.lengths('train').max()):,} tokens)",
        )


RULES = (_users_turns, _test_rows_in_train, _answers_cut)
