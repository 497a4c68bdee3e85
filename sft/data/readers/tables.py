"""Rows of CSV and TSV, and of plain text."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from sft.data.block import SourceFile
from sft.data.readers.files import Chunk, lines, not_utf8, refuse
from sft.errors import UserError

CELL_BYTES = 64 << 20
"""Longer cells are taken for a quote that was never closed."""
LONGEST_NAME = 100
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def table_chunks(file: SourceFile, rows: int) -> Iterator[Chunk]:
    """Yield the rows below the header, every cell as the text that it is, with the lines that they begin on.

    Raises:
        UserError: the header is none, or a row has more or fewer cells than it.
    """
    csv.field_size_limit(CELL_BYTES)
    reader = csv.reader(text_lines(file), delimiter="\t" if file.kind == "tsv" else ",", strict=True)
    header: list[str] | None = None
    numbers: list[int] = []
    found: list[dict[str, str]] = []
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _explain(file, error, begins, reader.line_num) from error
        if cells is None:
            break
        if not cells:  # a blank line
            continue
        if header is None:
            header = _check_header(file, cells, begins)
            continue
        if len(cells) != len(header):
            what = f"the row has {_count(len(cells))} and the header {len(header)}"
            raise refuse(file, what, "quote cells that hold the separator or a line's end", begins)
        numbers.append(begins)
        found.append(dict(zip(header, cells, strict=True)))
        if len(found) == rows:
            yield numbers, found
            numbers, found = [], []
    if found:
        yield numbers, found


def text_chunks(file: SourceFile, rows: int) -> Iterator[Chunk]:
    """Yield every line as a row with the column `text`, blank ones too, as `datasets` does."""
    numbers: list[int] = []
    found: list[dict[str, str]] = []
    for number, line in enumerate(text_lines(file), 1):
        numbers.append(number)
        found.append({"text": line.rstrip("\r\n")})
        if len(found) == rows:
            yield numbers, found
            numbers, found = [], []
    if found:
        yield numbers, found


def text_lines(file: SourceFile) -> Iterator[str]:
    """Yield the lines of a file, decoded, with their ends."""
    for number, line in enumerate(lines(file, keep_ends=True), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(file, error, number) from error
        if "\0" in text:
            raise refuse(
                file, "the line has a NUL character: this is no text", "write the file as UTF-8 text", number
            )
        yield text


def _check_header(file: SourceFile, names: list[str], line: int) -> list[str]:
    for place, name in enumerate(names, 1):
        if not name.strip():
            what = f"column {place} of the header has no name"
            fix = "name it; pandas writes such a column unless it is told index=False"
            raise refuse(file, what, fix, line)
        if len(name) > LONGEST_NAME or "\n" in name:
            what = f"the first line is no header: its column {place} is a text of {len(name)} characters"
            raise refuse(file, what, "begin the file with a line of column names", line)
    for name in names:
        if names.count(name) > 1:
            raise refuse(file, f"the header has two columns named {name}", "rename one of them", line)
    if len(names) == 1:
        for mark, word in OTHER_SEPARATORS.items():
            if mark in names[0]:
                fix = "separate by commas in a .csv file, by tabs in a .tsv file"
                raise refuse(file, f"the columns are separated by {word}: {names[0]!r}", fix, line)
    return names


def _explain(file: SourceFile, error: csv.Error, begins: int, reached: int) -> UserError:
    told = str(error)
    if "unexpected end of data" in told:
        what = f"a quote that opens in this row is not closed: the file ends at line {reached} inside it"
        return refuse(file, what, "close the quote, or double it where it is part of the text", begins)
    if "field larger than" in told:
        what = (
            f"a cell is longer than {CELL_BYTES >> 20} MiB, so a quote that opens in this row is not closed"
        )
        return refuse(file, what, "close the quote, or double it where it is part of the text", begins)
    if "expected after" in told:
        what = f"text follows a closing quote at line {reached}"
        return refuse(file, what, 'double the quotes that are part of the text: "say ""hi"""', begins)
    return refuse(file, f"the row cannot be read: {told}", "mend the row", begins)


def _count(cells: int) -> str:
    return f"{cells} cell" + ("" if cells == 1 else "s")
