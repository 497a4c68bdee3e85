"""Read files of rows in blocks: whatever the size of a file, only some of its rows are held.

What is wrong with a file is told with its name, line and remedy. What is wrong with a row that can be read is
not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sft.data.block import Block, Kind, Part, SourceFile
from sft.data.readers.columnar import arrow_chunks, count_arrow, count_parquet, parquet_chunks
from sft.data.readers.files import Chunk, lines
from sft.data.readers.json_rows import element_chunks, line_chunks, parse_line
from sft.data.readers.tables import table_chunks, text_chunks

READERS: dict[Kind, Callable[[SourceFile, int], Iterator[Chunk]]] = {
    "jsonl": line_chunks,
    "json": element_chunks,
    "csv": table_chunks,
    "tsv": table_chunks,
    "parquet": parquet_chunks,
    "arrow": arrow_chunks,
    "text": text_chunks,
}
COUNTING_ROWS = 4096


def read_blocks(part: Part, rows_per_block: int = 512) -> Iterator[Block]:
    """Yield the rows of a part in their order, those alone that it keeps.

    Lines of JSON are not parsed: `parse` does that, in the process that works on the block.

    Raises:
        UserError: a file cannot be read.
    """
    before = 0
    for file in part.files:
        if part.keep is not None and (not len(part.keep) or part.keep[-1] < before):
            return
        for numbers, rows in READERS[file.kind](file, rows_per_block):
            count = len(numbers)
            if part.keep is not None:
                import numpy as np

                first, last = np.searchsorted(part.keep, (before, before + count))
                kept = (part.keep[first:last] - before).tolist()
                numbers, rows = [numbers[index] for index in kept], [rows[index] for index in kept]
            if numbers:
                yield Block(file=file, numbers=numbers, rows=rows, columns=part.columns)
            before += count
            if part.keep is not None and part.keep[-1] < before:
                return


def parse(block: Block) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the row of each of a block's rows, with the columns that are looked at.

    Raises:
        UserError: a line is no JSON object.
    """
    columns = None if block.columns is None else frozenset(block.columns)
    rows: Sequence[Any] = block.rows
    for number, found in zip(block.numbers, rows, strict=True):
        row: dict[str, Any] = parse_line(block.file, number, found) if isinstance(found, bytes) else found
        yield number, row if columns is None else {key: row[key] for key in row if key in columns}


def count_rows(file: SourceFile) -> int:
    """Count the rows of a file; lines of JSON are not parsed for it.

    Raises:
        UserError: the file cannot be read.
    """
    if file.kind == "jsonl":
        return sum(1 for line in lines(file) if line and not line.isspace())
    if file.kind == "text":
        return sum(1 for _ in lines(file))
    if file.kind == "parquet":
        return count_parquet(file)
    if file.kind == "arrow":
        return count_arrow(file)
    return sum(len(numbers) for numbers, _ in READERS[file.kind](file, COUNTING_ROWS))
