"""Take rows out of prepared data, to be shown: their tokens, where they came from, what was cut from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sft.data.block import SourceFile
from sft.data.cache import Entry
from sft.data.view import PreparedRow
from sft.errors import UserError


def take_rows(entry: Entry, split: str, numbers: Sequence[int]) -> list[PreparedRow]:
    """Return rows by their numbers in the prepared split, from 1.

    Raises:
        UserError: there is no such split, or no such row.
    """
    if not entry.has(split):
        raise UserError(
            f"the run has no {split} split",
            where="--split",
            fix="set eval_strategy and a test split, or use --split train",
        )
    dataset = entry.dataset(split)
    beyond = [number for number in numbers if not 1 <= number <= len(dataset)]
    if beyond:
        raise UserError(
            f"there is no row {beyond[0]:,}: {len(dataset):,} rows of the {split} split are prepared",
            where="--rows",
            fix=f"choose from 1 to {len(dataset)}",
        )
    found: list[dict[str, Any]] = [dataset[number - 1] for number in numbers]
    files = [SourceFile("", one["kind"], one["name"]) for one in entry.manifest["sources"][split]]
    origins = [
        list(zip((files[file] for file in row["files"]), row["numbers"], strict=True)) for row in found
    ]
    cuts = _cuts(entry, {(file.name, number) for row in origins for file, number in row})
    return [
        PreparedRow(
            number,
            row["input_ids"],
            row["labels"],
            row.get("seq_lengths"),
            _places(origin, one_a_sample="seq_lengths" in row),
            sum(cuts.get((file.name, row), 0) for file, row in dict.fromkeys(origin)),
        )
        for number, row, origin in zip(numbers, found, origins, strict=True)
    ]


def _places(origin: Sequence[tuple[SourceFile, int]], *, one_a_sample: bool) -> tuple[str, ...]:
    """Name the places of a row's samples; samples that are not kept apart share one name."""
    places = [file.place(number) for file, number in origin]
    return tuple(places) if one_a_sample else (", ".join(places),)


def _cuts(entry: Entry, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Look up how many tokens truncation took from the rows that are shown."""
    found = {}
    with open(entry.directory / "truncated.jsonl", encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if (line["source"], line["row"]) in wanted:
                found[line["source"], line["row"]] = line["cut"]
    return found
