"""The samples that a run is evaluated on: its held-out rows as they were prepared for training. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sft.config.loader import LoadedRun
from sft.data.block import SourceFile
from sft.data.cache import Entry
from sft.data.prepare import prepare
from sft.data.readers.read import parse, read_blocks
from sft.data.source import open_splits
from sft.errors import UserError

NO_LOSS = -100
"""ignore_index of torch.nn.CrossEntropyLoss."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EvalSample:
    """One sample: the tokens that training would see, by itself where rows are packed.

    Attributes:
        id: its place among the samples, from 0.
        place: where its row stands, for people.
        origin: file and row number, where it comes from a single row.
        labels: -100 where a token carries no loss.
    """

    id: int
    place: str
    origin: tuple[str, int] | None
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    def answer(self, header: Sequence[int]) -> tuple[int, int] | None:
        """Return where the last turn of the assistant begins and ends, by what carries loss.

        Args:
            header: the tokens that such a turn begins behind. They tell where it begins in a sample that is trained
                from its first token on, which has a question's tokens in its loss too.
        """
        stop = len(self.labels)
        while stop and self.labels[stop - 1] == NO_LOSS:
            stop -= 1
        start = stop
        while start and self.labels[start - 1] != NO_LOSS:
            start -= 1
        if start:
            return start, stop
        size = len(header)
        for at in range(stop - size, 0, -1) if size else ():
            if self.input_ids[at : at + size] == tuple(header) and at + size < stop:
                return at + size, stop
        return None


def held_out(loaded: LoadedRun, split: str, say: Say) -> tuple[LoadedRun, Entry]:
    """Return the prepared data that holds a split, and the run as it was read for that.

    A run that did not evaluate may have a split to test on all the same.

    Raises:
        UserError: no rows are held out, or the data cannot be prepared.
    """
    training = loaded.config.training
    evaluates = training.eval_strategy != "no"
    if split == "test" and not evaluates:
        # A fraction to validate on is refused without an evaluation, so no row of it was trained on.
        training = training.model_copy(update={"eval_strategy": "steps"})
        loaded = dataclasses.replace(loaded, config=loaded.config.model_copy(update={"training": training}))
    try:
        entry = prepare(loaded, say)
    except UserError as error:
        if not evaluates and split == "test" and "has no split" in error.problems[0].what:
            raise UserError(
                "the run holds no rows out, so there is nothing to evaluate it on",
                loaded.sources.get("dataset_name", "validation_fraction"),
                "set validation_fraction: 0.05 and eval_strategy: epoch in the run file, and train again; or name a"
                " split that was not trained on with dataset_test_split",
            ) from error
        raise
    return loaded, entry


def read_samples(entry: Entry, split: str, limit: int | None = None) -> list[EvalSample]:
    """Take the samples of a prepared split in their order, the packed ones apart."""
    files = [SourceFile("", one["kind"], one["name"]) for one in entry.manifest["sources"][split]]
    found: list[EvalSample] = []
    for row in entry.dataset(split):
        for start, stop, origins in _pieces(row):
            if limit is not None and len(found) == limit:
                return found
            places = [(files[file], number) for file, number in origins]
            found.append(
                EvalSample(
                    len(found),
                    ", ".join(dict.fromkeys(file.place(number) for file, number in places)),
                    (places[0][0].name, places[0][1]) if len(places) == 1 else None,
                    tuple(row["input_ids"][start:stop]),
                    tuple(row["labels"][start:stop]),
                )
            )
    return found


def _pieces(row: dict[str, Any]) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Yield first and last token of each sample of a row, and the files and numbers of what is in it."""
    origins = list(zip(row["files"], row["numbers"], strict=True))
    lengths = row.get("seq_lengths")
    if lengths is None:
        yield 0, len(row["input_ids"]), origins
        return
    start = 0
    for length, origin in zip(lengths, origins, strict=True):
        yield start, start + length, [origin]
        start += length


def source_rows(
    loaded: LoadedRun, split: str, samples: Sequence[EvalSample]
) -> dict[tuple[str, int], dict[str, Any]]:
    """Read the rows that samples were made of, with every column, by file and number."""
    wanted = {sample.origin for sample in samples if sample.origin is not None}
    config = loaded.config
    splits = open_splits(
        config.script,
        config.mixture,
        evaluates=config.training.eval_strategy != "no",
        validation_fraction=config.kit.validation_fraction,
        dataset_mixture=config.kit.dataset_mixture,
    )
    found: dict[tuple[str, int], dict[str, Any]] = {}
    chosen = splits[0 if split == "train" else 1]
    for part in chosen.parts if chosen is not None else ():
        for block in read_blocks(dataclasses.replace(part, columns=None)):
            if not any((block.file.name, number) in wanted for number in block.numbers):
                continue
            for number, row in parse(block):
                if (block.file.name, number) in wanted:
                    found[block.file.name, number] = row
    return found
