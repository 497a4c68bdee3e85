"""Rows from JSON: one a line, or the elements of an array, which is never held whole."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

from sft.data.block import SourceFile
from sft.data.readers.files import AGAIN, CHUNK_BYTES, Chunk, lines, not_utf8, open_bytes, refuse, without_bom
from sft.errors import UserError

BLOCK_BYTES = 8 << 20
"""A block of lines ends here, whatever the number of its rows."""
NAMES = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}
SPACE = re.compile(r"[ \t\r\n]*")
MARGIN = 16
"""An error this near the end of what was read may only mean that more must be read."""


class _Refused(ValueError):
    """JSON that Python would take, and that would lose something or is none by the standard."""

    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = what, fix
        super().__init__(what)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f'the key "{twice}" stands twice in one object', "keep one of them")
    return row


def _no_constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON", "write a number, or null")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def line_chunks(file: SourceFile, rows: int) -> Iterator[Chunk]:
    """Yield the lines that are not blank, unparsed, with their line numbers."""
    numbers: list[int] = []
    found: list[bytes] = []
    size = 0
    for number, line in enumerate(lines(file), 1):
        if not line or line.isspace():
            continue
        numbers.append(number)
        found.append(line)
        size += len(line)
        if len(found) == rows or size > BLOCK_BYTES:
            yield numbers, found
            numbers, found, size = [], [], 0
    if found:
        yield numbers, found


def parse_line(file: SourceFile, number: int, line: bytes) -> dict[str, Any]:
    """Parse one line.

    Raises:
        UserError: it is no JSON object, or no UTF-8.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(file, error, number) from error
    try:
        row = DECODER.decode(text)
    except json.JSONDecodeError as error:
        what, fix = _explain(error)
        raise refuse(
            file, f"the line is not valid JSON: {what} at column {error.pos + 1}", fix, number
        ) from error
    except _Refused as error:
        raise refuse(file, error.what, error.fix, number) from error
    except (ValueError, RecursionError) as error:
        raise refuse(file, f"the line cannot be read: {_limit(error)}", "mend the line", number) from error
    if not isinstance(row, dict):
        what = f"the line is {NAMES[type(row)]}, not an object"
        raise refuse(file, what, 'write one object a line, such as {"text": "..."}', number)
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(file, row, number)
    return row


def element_chunks(file: SourceFile, rows: int) -> Iterator[Chunk]:
    """Yield the elements of an array, or objects that stand one after another, with their places."""
    with open_bytes(file) as stream:
        numbers: list[int] = []
        found: list[dict[str, Any]] = []
        for number, row in enumerate(_Values(file, stream).rows(), 1):
            numbers.append(number)
            found.append(row)
            if len(found) == rows:
                yield numbers, found
                numbers, found = [], []
        if found:
            yield numbers, found


def elements_in(file: SourceFile, beginning: bytes) -> int:
    """Count the rows that are whole in the beginning of a file; what is wrong with the file is not known here."""
    count = 0
    with suppress(UserError):  # it ends inside a row
        for _ in _Values(file, io.BytesIO(beginning)).rows():
            count += 1
    return count


class _Values:
    """A window on the text of a file that holds JSON values, as far as it was read and not yet parsed."""

    def __init__(self, file: SourceFile, stream: IO[bytes]) -> None:
        self.file, self.stream = file, stream
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.line = "", 0, 1
        self.ended = False
        self.size = CHUNK_BYTES
        self.first = True

    def rows(self) -> Iterator[dict[str, Any]]:
        """Parse one row after another."""
        if self.peek() != "[":
            while self.peek():
                yield self.row()
            return
        self.at += 1
        if self.peek() != "]":
            count = 0
            while True:
                yield self.row()
                count += 1
                mark = self.peek()
                if not mark:
                    raise self.refuse(f"the array is not closed: the file ends after row {count}", AGAIN)
                if mark not in ",]":
                    raise self.refuse(f"after row {count} of the array there is no comma", "mend the file")
                self.at += 1
                if mark == "]":
                    break
                if self.peek() == "]":
                    raise self.refuse("there is a comma before the end of the array", "remove the comma")
        else:
            self.at += 1
        if self.peek():
            raise self.refuse("the file goes on after its array", "keep one array in the file")

    def row(self) -> dict[str, Any]:
        """Parse the object that begins here, reading on as far as it goes."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                open_text = error.msg.startswith("Unterminated string")
                if not self.ended and (open_text or error.pos >= len(self.text) - MARGIN):
                    self.size *= 2
                    self.more()
                    continue
                if self.ended and (open_text or error.pos >= len(self.text.rstrip())):
                    raise self.refuse("the file ends inside this row", AGAIN) from error
                what, fix = _explain(error)
                raise self.refuse(f"the row is not valid JSON: {what}", fix, error.pos) from error
            except _Refused as error:
                raise self.refuse(error.what, error.fix) from error
            except (ValueError, RecursionError) as error:
                raise self.refuse(f"the row cannot be read: {_limit(error)}", "mend the row") from error
            break
        if not isinstance(value, dict):
            what = f"the row is {NAMES[type(value)]}, not an object"
            raise self.refuse(what, 'write an array of objects, such as [{"text": "..."}]')
        if self.text.find("\\ud", self.at, end) >= 0 or self.text.find("\\uD", self.at, end) >= 0:
            _check_surrogates(self.file, value, self.line_of(self.at))
        self.at, self.size = end, CHUNK_BYTES
        return value

    def peek(self) -> str:
        """Pass over white space and return what stands there, "" at the end of the file."""
        while True:
            found = SPACE.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def more(self) -> None:
        """Read on, and let go of what was parsed."""
        self.line = self.line_of(self.at)
        self.text, self.at = self.text[self.at :], 0
        chunk = self.stream.read(self.size)
        self.ended = not chunk
        if self.first:
            chunk, self.first = without_bom(self.file, chunk), False
        try:
            self.text += self.decoder.decode(chunk, final=self.ended)
        except UnicodeDecodeError as error:
            line = self.line_of(len(self.text)) + error.object[: error.start].count(b"\n")
            raise not_utf8(self.file, error, line) from error

    def line_of(self, position: int) -> int:
        """Return the line of a position in the window."""
        return self.line + self.text.count("\n", 0, position)

    def refuse(self, what: str, fix: str, position: int | None = None) -> UserError:
        """Make the error for the line of a position, by default where the window stands."""
        return refuse(self.file, what, fix, self.line_of(self.at if position is None else position))


def _explain(error: json.JSONDecodeError) -> tuple[str, str]:
    text, at = error.doc, error.pos
    before, here = text[:at].rstrip()[-1:], text[at : at + 1]
    if before == "," and here in ("}", "]"):
        return f"there is a comma before {here}", "remove the comma"
    if here == "'":
        return "texts stand in single quotes", "write it with json.dumps, which uses double quotes"
    if error.msg.startswith("Extra data"):
        return "something follows the object", "write one object a line"
    if error.msg.startswith("Invalid control character"):
        return (
            f"there is a bare control character 0x{ord(here):02x} in a text",
            "write it escaped, as json.dumps does",
        )
    if error.msg.startswith("Unterminated string"):
        return "a text is not closed", "close its quotes"
    return error.msg[:1].lower() + error.msg[1:].removesuffix(" starting"), "mend the line"


def _limit(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


def _check_surrogates(file: SourceFile, row: dict[str, Any], line: int) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        what = f"the text has {half}, half of a pair that makes one character"
        raise refuse(file, what, "mend the text: it was cut inside an emoji or the like", line) from error
