"""Rows of Parquet and Arrow files, some at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from sft.data.block import SourceFile
from sft.data.readers.files import AGAIN, Chunk, open_seekable, refuse

if TYPE_CHECKING:
    import pyarrow

ARROW_FILE = b"ARROW1"
"""How Arrow's file format begins; the stream format, in which `datasets` keeps its cache, has no mark."""


def parquet_chunks(file: SourceFile, rows: int) -> Iterator[Chunk]:
    """Yield the rows of a Parquet file."""
    from pyarrow import parquet

    with _opened(file, "Parquet") as stream:
        yield from _chunks(file, parquet.ParquetFile(stream).iter_batches(batch_size=rows), rows)


def arrow_chunks(file: SourceFile, rows: int) -> Iterator[Chunk]:
    """Yield the rows of an Arrow file, of either format."""
    with _opened(file, "Arrow") as stream:
        yield from _chunks(file, _batches(stream), rows)


def count_parquet(file: SourceFile) -> int:
    """Read the number of rows from the end of a Parquet file."""
    from pyarrow import parquet

    with _opened(file, "Parquet") as stream:
        return int(parquet.ParquetFile(stream).metadata.num_rows)


def count_arrow(file: SourceFile) -> int:
    """Add up the rows of the batches of an Arrow file."""
    with _opened(file, "Arrow") as stream:
        return sum(batch.num_rows for batch in _batches(stream))


def _batches(stream: IO[bytes]) -> Iterator[pyarrow.RecordBatch]:
    from pyarrow import ipc

    is_file = stream.read(len(ARROW_FILE)) == ARROW_FILE
    stream.seek(0)
    if not is_file:
        yield from ipc.open_stream(stream)
        return
    reader = ipc.open_file(stream)
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


@contextmanager
def _opened(file: SourceFile, format: str) -> Iterator[IO[bytes]]:
    import pyarrow

    with open_seekable(file) as stream:
        try:
            yield stream
        except (pyarrow.ArrowException, OSError) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
            what = f"the file is no {format} file, or is damaged or cut off: {told}"
            raise refuse(file, what, AGAIN) from error


def _chunks(file: SourceFile, batches: Iterator[pyarrow.RecordBatch], rows: int) -> Iterator[Chunk]:
    number = 0
    decode: Callable[[Any], Any] | None = None
    for batch in batches:
        if number == 0:
            import pyarrow

            decode = _decoder(pyarrow.struct(batch.schema))
        for start in range(0, batch.num_rows, rows):
            piece = batch.slice(start, rows)
            try:
                found = piece.to_pylist()
            except UnicodeDecodeError as error:
                what = f"a text in rows {number + 1} to {number + piece.num_rows} is not UTF-8"
                raise refuse(file, what, "write the column again, from texts that are UTF-8") from error
            if decode:
                found = [decode(row) for row in found]
            yield list(range(number + 1, number + piece.num_rows + 1)), found
            number += piece.num_rows


def _decoder(kind: pyarrow.DataType) -> Callable[[Any], Any] | None:
    """Make what turns a value's JSON texts into what they stand for, None for a type that has none.

    Arrow's type `arrow.json` is what `datasets` keeps mixed types in.
    """
    from pyarrow import types

    if getattr(kind, "extension_name", None) == "arrow.json":
        return lambda value: json.loads(value) if isinstance(value, str) else value
    if types.is_struct(kind):
        inside = {field.name: decode for field in kind if (decode := _decoder(field.type))}
        return (lambda value: _in_struct(value, inside)) if inside else None
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        each = _decoder(kind.value_type)
        return (lambda value: value and [each(item) for item in value]) if each else None
    return None


def _in_struct(value: Any, inside: dict[str, Callable[[Any], Any]]) -> Any:
    return value and {key: inside[key](item) if key in inside else item for key, item in value.items()}
