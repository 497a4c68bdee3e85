"""The unit of reading and of work: some consecutive rows of one file, small enough to hand to a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "text"]
Compression = Literal["gzip", "zstd"]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of rows.

    Attributes:
        path: where it lies.
        name: what people call it: the path as they wrote it, or the Hub id with the file's name.
    """

    path: str
    kind: Kind
    name: str
    compression: Compression | None = None

    def place(self, number: int) -> str:
        """Say where row `number` (1-based; the line for files of lines) stands."""
        return (
            f"{self.name}:{number}"
            if self.kind in ("jsonl", "csv", "tsv", "text")
            else f"{self.name} row {number}"
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one data set, in the order of its files.

    Attributes:
        keep: ordinals (0-based over the files together, ascending, int64) of the rows that belong here; None for all.
        columns: the columns to look at; None for all.
    """

    name: str
    files: tuple[SourceFile, ...]
    keep: np.ndarray[Any, np.dtype[np.int64]] | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of one split: those of its parts one after another, then shuffled if `order_seed` is given.

    The shuffle is the permutation of `numpy.random.default_rng(order_seed)`, which is that of `Dataset.shuffle`.
    """

    name: str
    parts: tuple[Part, ...]
    order_seed: int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of one file.

    Attributes:
        numbers: the row's number for people, one a row: the line in files of lines, else its 1-based place.
        rows: raw lines for jsonl (parsed by the worker), mappings otherwise.
    """

    file: SourceFile
    numbers: Sequence[int]
    rows: Sequence[bytes] | Sequence[dict[str, Any]]
    columns: tuple[str, ...] | None = None
