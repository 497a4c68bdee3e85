"""What is asked before and after, and what the user's own data needs of the run file. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from sft.config.run import ScriptArguments
from sft.data.mixture import from_trl
from sft.data.readers.read import parse, read_blocks
from sft.data.source import find_splits
from sft.data.splits import select

COUNT = 3
# Of functions whose chats are held out, asked as the data asks.
EMBEDDED = (
    "How do I use Python's `shutil.move`?",
    "What does `tempfile.mkstemp` do in Python?",
    "Which arguments does Python's `secrets.token_hex` take?",
)
LONGEST_PROMPT = 400  # characters of plain text that the model is to continue


@dataclass(frozen=True, slots=True)
class OwnData:
    """What the user's data set shows: questions to ask, and words that fit the run file to it."""

    questions: tuple[str, ...]
    words: tuple[str, ...]


def look_at(script: ScriptArguments, mixture: Any) -> OwnData:
    """Read the first rows of the user's data: of its test split where it has one.

    Raises:
        UserError: the data is not there or cannot be read.
    """
    splits = find_splits(script, from_trl(mixture) if mixture.datasets else None)
    has_test = script.dataset_test_split in splits
    key = "dataset_test_split" if has_test else "dataset_train_split"
    parts = select(splits, getattr(script, key), key)
    rows = list(
        islice((row for part in parts for block in read_blocks(part) for _, row in parse(block)), COUNT)
    )
    words: list[str] = []
    if not has_test:
        words += ["--eval_strategy", "no", "--eval_on_start", "false"]
    if not any(_turns(row) for row in rows):
        words += ["--assistant_only_loss", "false"]
    return OwnData(tuple(question_of(row) for row in rows), tuple(words))


def question_of(row: dict[str, Any]) -> str:
    """Return what a person asked first in this row; of plain text, its beginning."""
    for turn in _turns(row):
        if turn.get("role", turn.get("from")) in ("user", "human"):
            return str(turn.get("content", turn.get("value")))
    return str(row.get("prompt") or row.get("text") or next(iter(row.values()), ""))[:LONGEST_PROMPT]


def _turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    for name in ("messages", "conversations", "prompt"):
        if isinstance(row.get(name), list):
            return list(row[name])
    return []
