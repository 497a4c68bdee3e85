"""What is wrong with files and with where they lie, one case each: the message is the whole of what is told.

The tables of the documentation are made of these.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.errors import ExitCode

Settings = dict[str, Any]
"""Keys of the run file, and `evaluates`, which stands for an eval_strategy that is not `no`."""
ROW = b'{"text": "a"}\n'
MANY = b"".join(b'{"text": "row %d"}\n' % (index * index) for index in range(5000))
AS_ROOT = "root may read every file" if os.geteuid() == 0 else None


@dataclass(frozen=True, slots=True)
class BadFile:
    """One bad input.

    Attributes:
        what_it_is: in one phrase.
        build: writes it below a directory, and returns the settings that lead to it.
        message: `{here}` stands for that directory.
        skip: why it cannot be tried here.
    """

    name: str
    what_it_is: str
    build: Callable[[Path], Settings]
    message: str
    exit_code: ExitCode = ExitCode.USAGE
    skip: str | None = None


def file(name: str, content: bytes, **settings: Any) -> Callable[[Path], Settings]:
    """Make what writes one file."""

    def build(here: Path) -> Settings:
        (here / name).write_bytes(content)
        return {"dataset_name": f"{here}/{name}", **settings}

    return build


def directory(files: dict[str, bytes]) -> Callable[[Path], Settings]:
    """Make what writes the files of a directory."""

    def build(here: Path) -> Settings:
        for name, content in files.items():
            (here / name).write_bytes(content)
        return {"dataset_name": str(here)}

    return build


def mixture(*parts: dict[str, Any]) -> Callable[[Path], Settings]:
    """Make TRL's mixture of data sets of five rows."""

    def build(here: Path) -> Settings:
        (here / "rows.jsonl").write_bytes(ROW * 5)
        return {"datasets": [{"path": f"{here}/rows.jsonl", **part} for part in parts]}

    return build


def handbook(part: dict[str, Any]) -> Callable[[Path], Settings]:
    """Make alignment-handbook's mixture of a data set of five rows."""

    def build(here: Path) -> Settings:
        (here / "rows.jsonl").write_bytes(ROW * 5)
        return {"dataset_mixture": {"datasets": [{"id": f"{here}/rows.jsonl", **part}]}}

    return build


def forbidden(here: Path) -> Settings:
    """Write a file that may not be read."""
    (here / "rows.jsonl").write_bytes(ROW)
    (here / "rows.jsonl").chmod(0)
    return {"dataset_name": f"{here}/rows.jsonl"}


def saved_without_a_shard(here: Path) -> Settings:
    """Save a data set in three files, and lose one."""
    import datasets

    rows = datasets.Dataset.from_list([{"text": text} for text in "abc"])
    rows.save_to_disk(here / "saved", num_shards=3)
    (here / "saved" / "data-00001-of-00003.arrow").unlink()
    return {"dataset_name": f"{here}/saved"}


def zstd(content: bytes) -> bytes:
    """Pack bytes as zstd."""
    import pyarrow

    return bytes(pyarrow.Codec("zstd").compress(content, asbytes=True))


def damaged(content: bytes) -> bytes:
    """Turn some bytes in the middle around."""
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(255 - byte for byte in content[middle : middle + 50])
        + content[middle + 50 :]
    )


def parquet_bytes() -> bytes:
    """Write a Parquet file of a few rows."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"text": ["a", "b"]}), sink)
    return bytes(sink.getvalue())


def arrow_bytes() -> bytes:
    """Write an Arrow stream of a few rows."""
    import pyarrow
    from pyarrow import ipc

    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"text": ["a" * 100, "b" * 100]})
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


BAD_FILES = [
    BadFile(
        "broken line",
        "JSON lines, the third of which is broken",
        file("rows.jsonl", b'{"text": "a"}\n\n{"text": }\n'),
        "the line is not valid JSON: expecting value at column 10\n"
        "  where: {here}/rows.jsonl:3\n"
        "  fix:   mend the line",
    ),
    BadFile(
        "trailing comma in a line",
        "a comma before the closing brace",
        file("rows.jsonl", b'{"text": "a"}\n{"text": "b",}\n'),
        "the line is not valid JSON: there is a comma before } at column 14\n"
        "  where: {here}/rows.jsonl:2\n"
        "  fix:   remove the comma",
    ),
    BadFile(
        "Python's own spelling",
        "a line that print wrote, not json.dumps",
        file("rows.jsonl", b"{'text': 'a'}\n"),
        "the line is not valid JSON: texts stand in single quotes at column 2\n"
        "  where: {here}/rows.jsonl:1\n"
        "  fix:   write it with json.dumps, which uses double quotes",
    ),
    BadFile(
        "two objects in a line",
        "a line's end that is missing",
        file("rows.jsonl", b'{"text": "a"}{"text": "b"}\n'),
        "the line is not valid JSON: something follows the object at column 14\n"
        "  where: {here}/rows.jsonl:1\n"
        "  fix:   write one object a line",
    ),
    BadFile(
        "line cut off",
        "a last line that was not written to its end",
        file("rows.jsonl", b'{"text": "a"}\n{"text": "b'),
        "the line is not valid JSON: a text is not closed at column 10\n"
        "  where: {here}/rows.jsonl:2\n"
        "  fix:   close its quotes",
    ),
    BadFile(
        "bare tab in a text",
        "a control character that JSON wants escaped",
        file("rows.jsonl", b'{"text": "a\tb"}\n'),
        "the line is not valid JSON: there is a bare control character 0x09 in a text at column 12\n"
        "  where: {here}/rows.jsonl:1\n"
        "  fix:   write it escaped, as json.dumps does",
    ),
    BadFile(
        "line that is a list",
        "a line that holds a list",
        file("rows.jsonl", b'["a", "b"]\n{"text": "a"}\n'),
        "the line is a list, not an object\n"
        "  where: {here}/rows.jsonl:1\n"
        '  fix:   write one object a line, such as {"text": "..."}',
    ),
    BadFile(
        "line that is a number",
        "a line that holds a number",
        file("rows.jsonl", b'{"text": "a"}\n42\n'),
        "the line is a number, not an object\n"
        "  where: {here}/rows.jsonl:2\n"
        '  fix:   write one object a line, such as {"text": "..."}',
    ),
    BadFile(
        "line that is a text",
        "a line that holds a text",
        file("rows.jsonl", b'"a"\n'),
        "the line is a text, not an object\n"
        "  where: {here}/rows.jsonl:1\n"
        '  fix:   write one object a line, such as {"text": "..."}',
    ),
    BadFile(
        "key twice",
        "a key that stands twice in one object, of which Python would keep the last",
        file("rows.jsonl", b'{"messages": [{"role": "user", "role": "assistant"}]}\n'),
        'the key "role" stands twice in one object\n  where: {here}/rows.jsonl:1\n  fix:   keep one of them',
    ),
    BadFile(
        "NaN",
        "a number that JSON does not have",
        file("rows.jsonl", b'{"text": "a", "score": NaN}\n'),
        "NaN is not JSON\n  where: {here}/rows.jsonl:1\n  fix:   write a number, or null",
    ),
    BadFile(
        "half a character",
        "half of a surrogate pair, as cutting inside an emoji leaves it",
        file("rows.jsonl", b'{"text": "\\ud83d"}\n'),
        "the text has \\ud83d, half of a pair that makes one character\n"
        "  where: {here}/rows.jsonl:1\n"
        "  fix:   mend the text: it was cut inside an emoji or the like",
    ),
    BadFile(
        "nested too deeply",
        "brackets inside brackets, by the thousand",
        file("rows.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
        "the line cannot be read: it is nested too deeply\n"
        "  where: {here}/rows.jsonl:1\n"
        "  fix:   mend the line",
    ),
    BadFile(
        "Latin-1",
        "bytes of another encoding in a line",
        file("rows.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n'),
        "the line is not UTF-8: it has the byte 0xe9\n"
        "  where: {here}/rows.jsonl:2\n"
        "  fix:   iconv -f LATIN1 -t UTF-8 {here}/rows.jsonl > utf8.jsonl, if that is its encoding",
    ),
    BadFile(
        "UTF-16",
        "a file of another encoding, with its mark",
        file("rows.jsonl", '{"text": "a"}\n'.encode("utf-16")),
        "the file is UTF-16, not UTF-8\n"
        "  where: {here}/rows.jsonl\n"
        "  fix:   iconv -f UTF-16 -t UTF-8 {here}/rows.jsonl > utf8.jsonl",
    ),
    BadFile(
        "empty file",
        "a file without bytes",
        file("rows.jsonl", b""),
        "the file is empty\n  where: {here}/rows.jsonl\n  fix:   add rows, or remove the file",
    ),
    BadFile(
        "only a byte order mark",
        "a file that an editor left empty",
        file("rows.jsonl", b"\xef\xbb\xbf\r\n"),
        "the file is empty\n  where: {here}/rows.jsonl\n  fix:   add rows, or remove the file",
    ),
    BadFile(
        "array broken in the middle",
        "an array, an element of which is broken",
        file("rows.json", b'[\n  {"text": "a"},\n  {"text": b},\n  {"text": "c"}\n]\n'),
        "the row is not valid JSON: expecting value\n  where: {here}/rows.json:3\n  fix:   mend the line",
    ),
    BadFile(
        "array without a comma",
        "an array, two elements of which stand side by side",
        file("rows.json", b'[\n  {"text": "a"}\n  {"text": "b"}\n]\n'),
        "after row 1 of the array there is no comma\n  where: {here}/rows.json:3\n  fix:   mend the file",
    ),
    BadFile(
        "array with a comma at its end",
        "an array with a comma after its last element",
        file("rows.json", b'[\n  {"text": "a"},\n]\n'),
        "there is a comma before the end of the array\n"
        "  where: {here}/rows.json:3\n"
        "  fix:   remove the comma",
    ),
    BadFile(
        "array not closed",
        "an array that ends between two elements",
        file("rows.json", b'[\n  {"text": "a"},\n  {"text": "b"}\n'),
        "the array is not closed: the file ends after row 2\n"
        "  where: {here}/rows.json:4\n"
        "  fix:   fetch it or write it again",
    ),
    BadFile(
        "array cut off",
        "an array that ends inside an element",
        file("rows.json", b'[\n  {"text": "a"},\n  {"text": "b'),
        "the file ends inside this row\n  where: {here}/rows.json:3\n  fix:   fetch it or write it again",
    ),
    BadFile(
        "array of texts",
        "an array of something else than objects",
        file("rows.json", b'["a", "b"]'),
        "the row is a text, not an object\n"
        "  where: {here}/rows.json:1\n"
        '  fix:   write an array of objects, such as [{"text": "..."}]',
    ),
    BadFile(
        "empty array",
        "an array without elements",
        file("rows.json", b"[]\n"),
        "the data set {here}/rows.json has no rows in its split 'train'\n"
        "  where: dataset_name\n"
        "  fix:   add rows, or name another split",
    ),
    BadFile(
        "something after the array",
        "a file of two arrays",
        file("rows.json", b'[{"text": "a"}]\n[{"text": "b"}]\n'),
        "the file goes on after its array\n  where: {here}/rows.json:2\n  fix:   keep one array in the file",
    ),
    BadFile(
        "Latin-1 in an array",
        "bytes of another encoding in an array",
        file("rows.json", b'[\n  {"text": "a"},\n  {"text": "caf\xe9"}\n]\n'),
        "the line is not UTF-8: it has the byte 0xe9\n"
        "  where: {here}/rows.json:3\n"
        "  fix:   iconv -f LATIN1 -t UTF-8 {here}/rows.json > utf8.json, if that is its encoding",
    ),
    BadFile(
        "rows inside an object",
        "an object that holds the rows",
        file("rows.json", b'{"data": [{"text": "a"}, {"text": "b"}]}'),
        'the rows lie inside an object, under "data"; the file must be an array of rows or one row a line\n'
        "  where: {here}/rows.json\n"
        "  fix:   jq -c '.[\"data\"][]' {here}/rows.json > rows.jsonl",
    ),
    BadFile(
        "rows inside a long object",
        "an object over many lines that holds the rows beside other things",
        file("rows.json", b'{\n  "version": 1,\n  "data": [\n    {"text": "a"}\n  ]\n}\n'),
        'the rows lie inside an object, under "data"; the file must be an array of rows or one row a line\n'
        "  where: {here}/rows.json\n"
        "  fix:   jq -c '.[\"data\"][]' {here}/rows.json > rows.jsonl",
    ),
    BadFile(
        "no rows inside an object",
        "an object that holds an empty list",
        file("rows.json", b'{"data": []}'),
        'the rows lie inside an object, under "data"; the file must be an array of rows or one row a line\n'
        "  where: {here}/rows.json\n"
        "  fix:   jq -c '.[\"data\"][]' {here}/rows.json > rows.jsonl",
    ),
    BadFile(
        "Git LFS pointer",
        "a repository that was cloned without its large files",
        file("rows.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "the file is a pointer of Git LFS, not the data\n"
        "  where: {here}/rows.parquet\n"
        "  fix:   run `git lfs pull` where it was cloned",
    ),
    BadFile(
        "web page",
        "a page that asks for a login, saved under the name of the data",
        file("rows.jsonl", b"<!DOCTYPE html>\n<html></html>\n"),
        "the file is a web page, not data\n"
        "  where: {here}/rows.jsonl\n"
        "  fix:   fetch it again: the address may want a login",
    ),
    BadFile(
        "gzip cut off",
        "a packed file that was not fetched to its end",
        file("rows.jsonl.gz", gzip.compress(MANY)[:-400]),
        "the gzip file is cut off\n  where: {here}/rows.jsonl.gz\n  fix:   fetch it or write it again",
    ),
    BadFile(
        "gzip that is none",
        "a name that says .gz, of a file that is not packed",
        file("rows.jsonl.gz", b'{"text": "a"}\n'),
        "the file is not gzip, as its name says\n"
        "  where: {here}/rows.jsonl.gz\n"
        "  fix:   remove .gz from its name",
    ),
    BadFile(
        "gzip damaged",
        "a packed file with wrong bytes in it",
        file("rows.jsonl.gz", damaged(gzip.compress(MANY))),
        "the gzip file is damaged\n  where: {here}/rows.jsonl.gz\n  fix:   fetch it or write it again",
    ),
    BadFile(
        "zstd cut off",
        "a packed file that was not fetched to its end",
        file("rows.jsonl.zst", zstd(MANY)[:-400]),
        "the zstd file is cut off\n  where: {here}/rows.jsonl.zst\n  fix:   fetch it or write it again",
    ),
    BadFile(
        "zstd that is none",
        "a name that says .zst, of a file that is not packed",
        file("rows.jsonl.zst", b'{"text": "a"}\n'),
        "the file is not zstd, as its name says, or is damaged\n"
        "  where: {here}/rows.jsonl.zst\n"
        "  fix:   fetch it or write it again, or remove .zst from its name",
    ),
    BadFile(
        "CSV row too long",
        "a comma in a cell without quotes",
        file("rows.csv", b"prompt,completion\na,b\nc,d,e\n"),
        "the row has 3 cells and the header 2\n"
        "  where: {here}/rows.csv:3\n"
        "  fix:   quote cells that hold the separator or a line's end",
    ),
    BadFile(
        "CSV row too short",
        "a cell that is missing",
        file("rows.csv", b"prompt,completion\na,b\n\nc\n"),
        "the row has 1 cell and the header 2\n"
        "  where: {here}/rows.csv:4\n"
        "  fix:   quote cells that hold the separator or a line's end",
    ),
    BadFile(
        "CSV quote not closed",
        "a quote that opens and never closes",
        file("rows.csv", b'prompt,completion\na,b\nc,"d\ne,f\n'),
        "a quote that opens in this row is not closed: the file ends at line 4 inside it\n"
        "  where: {here}/rows.csv:3\n"
        "  fix:   close the quote, or double it where it is part of the text",
    ),
    BadFile(
        "CSV quote in a quote",
        "a quote in a quoted cell that is not doubled",
        file("rows.csv", b'prompt,completion\n"say "hi" now",b\n'),
        "text follows a closing quote at line 2\n"
        "  where: {here}/rows.csv:2\n"
        '  fix:   double the quotes that are part of the text: "say ""hi"""',
    ),
    BadFile(
        "CSV without a header",
        "a first line that is a row",
        file("rows.csv", b"How are you? " * 10 + b",Fine.\nWhy?,So.\n"),
        "the first line is no header: its column 1 is a text of 130 characters\n"
        "  where: {here}/rows.csv:1\n"
        "  fix:   begin the file with a line of column names",
    ),
    BadFile(
        "CSV column without a name",
        "a header as pandas writes it with its index",
        file("rows.csv", b",text\n0,a\n"),
        "column 1 of the header has no name\n"
        "  where: {here}/rows.csv:1\n"
        "  fix:   name it; pandas writes such a column unless it is told index=False",
    ),
    BadFile(
        "CSV column twice",
        "a header with one name twice",
        file("rows.csv", b"text,text\na,b\n"),
        "the header has two columns named text\n  where: {here}/rows.csv:1\n  fix:   rename one of them",
    ),
    BadFile(
        "CSV separated by semicolons",
        "a file of a spreadsheet in another language",
        file("rows.csv", b"prompt;completion\na;b\n"),
        "the columns are separated by semicolons: 'prompt;completion'\n"
        "  where: {here}/rows.csv:1\n"
        "  fix:   separate by commas in a .csv file, by tabs in a .tsv file",
    ),
    BadFile(
        "CSV of a header alone",
        "a header without rows",
        file("rows.csv", b"prompt,completion\n"),
        "the data set {here}/rows.csv has no rows in its split 'train'\n"
        "  where: dataset_name\n"
        "  fix:   add rows, or name another split",
    ),
    BadFile(
        "CSV in Latin-1",
        "bytes of another encoding in a table",
        file("rows.csv", b"text\na\ncaf\xe9\n"),
        "the line is not UTF-8: it has the byte 0xe9\n"
        "  where: {here}/rows.csv:3\n"
        "  fix:   iconv -f LATIN1 -t UTF-8 {here}/rows.csv > utf8.csv, if that is its encoding",
    ),
    BadFile(
        "NUL bytes",
        "a file that is no text",
        file("rows.tsv", b"text\na\0b\n"),
        "the line has a NUL character: this is no text\n"
        "  where: {here}/rows.tsv:2\n"
        "  fix:   write the file as UTF-8 text",
    ),
    BadFile(
        "text that is none",
        "a binary file with the name of a text",
        file("rows.txt", b"one\n\x80\x81\n"),
        "the line is not UTF-8: it has the byte 0x80\n"
        "  where: {here}/rows.txt:2\n"
        "  fix:   iconv -f LATIN1 -t UTF-8 {here}/rows.txt > utf8.txt, if that is its encoding",
    ),
    BadFile(
        "Parquet that is none",
        "JSON under the name of Parquet",
        file("rows.parquet", b'{"text": "a"}\n'),
        "the file is no Parquet file, or is damaged or cut off: Parquet magic bytes not found in footer\n"
        "  where: {here}/rows.parquet\n"
        "  fix:   fetch it or write it again",
    ),
    BadFile(
        "Parquet cut off",
        "a Parquet file that was not fetched to its end",
        file("rows.parquet", parquet_bytes()[:-20]),
        "the file is no Parquet file, or is damaged or cut off: Parquet magic bytes not found in footer\n"
        "  where: {here}/rows.parquet\n"
        "  fix:   fetch it or write it again",
    ),
    BadFile(
        "Arrow cut off",
        "an Arrow stream that was not written to its end",
        file("rows.arrow", arrow_bytes()[:-60]),
        "the file is no Arrow file, or is damaged or cut off: Expected to be able to read 216 bytes for message body, got 164\n"
        "  where: {here}/rows.arrow\n"
        "  fix:   fetch it or write it again",
    ),
    BadFile(
        "Arrow that is none",
        "JSON under the name of Arrow",
        file("rows.arrow", b'{"text": "a"}\n'),
        "the file is no Arrow file, or is damaged or cut off: Expected to read 1702109819 metadata bytes, but only read 10\n"
        "  where: {here}/rows.arrow\n"
        "  fix:   fetch it or write it again",
    ),
    BadFile(
        "missing file",
        "a path that leads nowhere",
        lambda here: {"dataset_name": f"{here}/gone.jsonl"},
        "there is no data set at {here}/gone.jsonl\n  where: dataset_name\n  fix:   check the path",
    ),
    BadFile(
        "unknown kind",
        "a file that nothing here reads",
        file("rows.xlsx", b"?"),
        "{here}/rows.xlsx is of no known kind of file\n"
        "  where: dataset_name\n"
        "  fix:   use one of .json, .jsonl, .ndjson, .csv, .tsv, .parquet, .arrow, .txt, also with .gz or .zst",
    ),
    BadFile(
        "file that may not be read",
        "a file without the right to read it",
        forbidden,
        "the file may not be read by this user\n"
        "  where: {here}/rows.jsonl\n"
        "  fix:   chmod a+r {here}/rows.jsonl",
        exit_code=ExitCode.ENVIRONMENT,
        skip=AS_ROOT,
    ),
    BadFile(
        "empty directory",
        "a directory without files of rows",
        directory({"notes.md": b"?"}),
        "the directory {here} has no files of rows\n"
        "  where: dataset_name\n"
        "  fix:   put files in it that end in .json, .jsonl, .ndjson, .csv, .tsv, .parquet, .arrow, .txt",
    ),
    BadFile(
        "directory with two kinds",
        "JSON and CSV side by side",
        directory({"a.jsonl": ROW, "b.csv": b"text\na\n"}),
        "{here} has files of two kinds: a.jsonl and b.csv\n"
        "  where: dataset_name\n"
        "  fix:   keep one kind in it, or name the files with a pattern such as *.jsonl",
    ),
    BadFile(
        "file of no split",
        "named splits, and a file that belongs to none",
        directory({"train.jsonl": ROW, "more.jsonl": ROW}),
        "{here} has files of named splits, such as train.jsonl, and more.jsonl, which belongs to none\n"
        "  where: dataset_name\n"
        "  fix:   put train or test into its name, or move it away",
    ),
    BadFile(
        "file of two splits",
        "a name that speaks of two splits",
        directory({"train-test.jsonl": ROW}),
        "the name of train-test.jsonl in {here} speaks of two splits: train and test\n"
        "  where: dataset_name\n"
        "  fix:   rename it",
    ),
    BadFile(
        "packing that is unknown",
        "a file that is packed as nothing here unpacks",
        directory({"a.jsonl": ROW, "b.jsonl.bz2": b"?"}),
        "{here} has a file that cannot be unpacked: b.jsonl.bz2\n"
        "  where: dataset_name\n"
        "  fix:   pack it with .gz or .zst, or move it away",
    ),
    BadFile(
        "pattern without a match",
        "a glob that matches no file",
        lambda here: {"dataset_name": f"{here}/*.jsonl"},
        "no file matches {here}/*.jsonl\n  where: dataset_name\n  fix:   check the pattern",
    ),
    BadFile(
        "saved set with a missing file",
        "a save_to_disk directory, one file of which was not copied",
        saved_without_a_shard,
        "the saved data set lacks 1 of its 3 files: data-00001-of-00003.arrow\n"
        "  where: {here}/saved\n"
        "  fix:   copy the whole directory, or write the directory again with save_to_disk",
    ),
    BadFile(
        "saved set with a broken state",
        "a save_to_disk directory, the description of which is damaged",
        directory({"state.json": b"{"}),
        "the file is not valid JSON\n"
        "  where: {here}/state.json\n"
        "  fix:   write the directory again with save_to_disk",
    ),
    BadFile(
        "split that is not there",
        "a data set of one file, and eval_strategy set",
        file("rows.jsonl", ROW, evaluates=True),
        "the data set has no split 'test'\n"
        "  where: dataset_test_split\n"
        "  fix:   set dataset_test_split to one of: train; or hold rows out with validation_fraction; or set eval_strategy: no",
    ),
    BadFile(
        "training split that is not there",
        "a name that no split has",
        file("rows.jsonl", ROW, dataset_train_split="training"),
        "the data set has no split 'training'\n"
        "  where: dataset_train_split\n"
        "  fix:   set dataset_train_split to one of: train",
    ),
    BadFile(
        "slice that is none",
        "a split expression with a slip of the pen",
        file("rows.jsonl", ROW, dataset_train_split="train[:90"),
        "'train[:90' is no split, as `datasets` writes them\n"
        "  where: dataset_train_split\n"
        "  fix:   write it as in train, train[:90%], train[100:200] or train+validation",
    ),
    BadFile(
        "slice beyond 100%",
        "a split expression that cannot be",
        file("rows.jsonl", ROW, dataset_train_split="train[:200%]"),
        "'train[:200%]' is no split, as `datasets` writes them\n"
        "  where: dataset_train_split\n"
        "  fix:   write it as in train, train[:90%], train[100:200] or train+validation",
    ),
    BadFile(
        "slice that is empty",
        "a split expression that selects nothing",
        file("rows.jsonl", ROW, dataset_train_split="train[:10%]"),
        "train[:10%] selects none of the 1 rows of train\n"
        "  where: dataset_train_split\n"
        "  fix:   widen the slice",
    ),
    BadFile(
        "nothing held out",
        "a fraction of few rows",
        file("rows.jsonl", ROW * 3, evaluates=True, validation_fraction=0.1),
        "validation_fraction 0.1 of 3 rows holds none out\n"
        "  where: validation_fraction\n"
        "  fix:   choose another fraction, or a split of its own with dataset_test_split",
    ),
    BadFile(
        "two ways to a test split",
        "a fraction beside a split of its own",
        file("rows.jsonl", ROW, evaluates=True, validation_fraction=0.1, dataset_test_split="test"),
        "validation_fraction and dataset_test_split both say which rows to test on\n"
        "  where: validation_fraction\n"
        "  fix:   keep one",
    ),
    BadFile(
        "Hub id without a network",
        "a name of the Hub, out of its reach and not in the cache",
        lambda here: {"dataset_name": "nobody/nothing-of-this-name"},
        "the data set nobody/nothing-of-this-name is not in the cache and the Hub cannot be reached: Couldn't reach 'nobody/nothing-of-this-name' on the Hub (OfflineModeIsEnabled)\n"
        "  where: dataset_name\n"
        "  fix:   fetch it where there is a network, or name a local file",
        exit_code=ExitCode.ENVIRONMENT,
    ),
    BadFile(
        "fraction of some",
        "TRL's mixture with a fraction at one data set alone",
        mixture({"fraction": 0.5}, {}),
        "fraction is set for some data sets of the mixture and not for others\n"
        "  where: datasets\n"
        "  fix:   set fraction everywhere or nowhere",
    ),
    BadFile(
        "fraction below 0",
        "TRL's mixture with a share that cannot be",
        mixture({"fraction": -0.5}, {"fraction": 1.0}),
        "a fraction must not be negative, nor all be 0\n  where: datasets\n  fix:   give positive shares",
    ),
    BadFile(
        "fraction of nothing",
        "TRL's mixture with a share that comes to no row",
        mixture({"fraction": 0.001}, {"fraction": 0.999}),
        "fraction 0.001 of {here}/rows.jsonl comes to no row in a mixture of 5\n"
        "  where: datasets\n"
        "  fix:   give it a larger share, or remove it",
    ),
    BadFile(
        "split of a mixture",
        "TRL's mixture with a split that its data set lacks",
        mixture({"split": "train_sft"}),
        "the data set has no split 'train_sft'\n  where: datasets\n  fix:   set its split to one of: train",
    ),
    BadFile(
        "column of a mixture",
        "TRL's mixture with a column that its data set lacks",
        mixture({"columns": ["messages"]}),
        "the data set {here}/rows.jsonl has no column messages; it has text\n"
        "  where: datasets\n"
        "  fix:   name columns that it has",
    ),
    BadFile(
        "file of a mixture",
        "TRL's mixture with a file that is not there",
        mixture({"path": "json", "data_files": "gone.jsonl"}),
        "there is no file gone.jsonl\n  where: datasets\n  fix:   check data_files",
    ),
    BadFile(
        "weight out of range",
        "alignment-handbook's mixture with a weight above 1",
        handbook({"weight": 1.5}),
        "dataset_mixture.datasets[0].weight must be above 0 and at most 1, not 1.5\n"
        "  where: dataset_mixture\n"
        "  fix:   give the share of its rows to take, 1 for all",
    ),
    BadFile(
        "weight of nothing",
        "alignment-handbook's mixture with a weight that comes to no row",
        handbook({"weight": 0.01}),
        "weight 0.01 of {here}/rows.jsonl comes to none of its 5 rows\n"
        "  where: dataset_mixture\n"
        "  fix:   give it a larger weight, or remove it",
    ),
    BadFile(
        "unknown key of a mixture",
        "alignment-handbook's mixture with a key it does not have",
        handbook({"wieght": 0.5}),
        "dataset_mixture.datasets[0] has no key wieght\n"
        "  where: dataset_mixture\n"
        "  fix:   did you mean weight?",
    ),
    BadFile(
        "mixture without an id",
        "alignment-handbook's mixture with a data set that is not named",
        handbook({"id": None}),
        "dataset_mixture.datasets[0] has no id\n"
        "  where: dataset_mixture\n"
        "  fix:   add `id:` with the data set's name or path",
    ),
]
