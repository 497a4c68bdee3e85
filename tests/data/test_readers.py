"""Files of rows are read some rows at a time, with the numbers that people look for."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data.block import Part, SourceFile
from sft.data.readers import files as reading
from sft.data.readers.kinds import describe, kind_of
from sft.data.readers.read import count_rows, parse, read_blocks
from tests.data.bad_files import zstd

ROWS: list[dict[str, Any]] = [
    {"text": "one"},
    {"text": 'say "hi", you\nthere'},
    {"text": "größer 😀"},
    {"text": " four "},
]


def source(path: Path) -> SourceFile:
    return describe(str(path), path.name, "dataset_name")


def read(path: Path, rows_per_block: int = 2, **part: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return place and row of every row."""
    blocks = read_blocks(Part(path.name, (source(path),), **part), rows_per_block)
    return [(block.file.place(number), row) for block in blocks for number, row in parse(block)]


def content(kind: str) -> bytes:
    """Write ROWS as a file of this kind."""
    import pyarrow
    from pyarrow import ipc, parquet

    if kind == "jsonl":
        return b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    if kind == "json":
        return json.dumps(ROWS, indent=2, ensure_ascii=False).encode()
    if kind in ("csv", "tsv"):
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, ["text"], delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(ROWS)
        return out.getvalue().encode()
    table = pyarrow.Table.from_pylist(ROWS)
    sink = pyarrow.BufferOutputStream()
    if kind == "parquet":
        parquet.write_table(table, sink, row_group_size=3)
    else:
        with (ipc.new_file if kind == "arrow file" else ipc.new_stream)(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    return bytes(sink.getvalue())


PLACES = {
    "jsonl": [":1", ":2", ":3", ":4"],
    "csv": [":2", ":3", ":5", ":6"],
    "tsv": [":2", ":3", ":5", ":6"],
}
PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "arrow", "arrow file"])
def test_every_kind_gives_the_same_rows_packed_or_not(tmp_path: Path, kind: str, packing: str) -> None:
    path = tmp_path / f"rows.{kind.split()[0]}{packing}"
    path.write_bytes(PACKED[packing](content(kind)))
    places = PLACES.get(kind, [f" row {number}" for number in (1, 2, 3, 4)])
    assert read(path) == [(path.name + place, row) for place, row in zip(places, ROWS, strict=True)]
    assert count_rows(source(path)) == 4


@pytest.mark.parametrize("packing", PACKED)
def test_text_has_a_row_a_line_as_in_datasets(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"rows.txt{packing}"
    path.write_bytes(PACKED[packing](b"one\r\n\n three \nlast"))
    assert read(path) == [
        (f"{path.name}:1", {"text": "one"}),
        (f"{path.name}:2", {"text": ""}),
        (f"{path.name}:3", {"text": " three "}),
        (f"{path.name}:4", {"text": "last"}),
    ]
    assert count_rows(source(path)) == 4
    if not packing:
        import datasets

        theirs = datasets.load_dataset("text", data_files=str(path), cache_dir=str(tmp_path / "cache"))[
            "train"
        ]
        assert list(theirs) == [row for _, row in read(path)]


def test_lines_are_counted_whatever_ends_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\n  \n{"a": 3}\r{"a": 4}\n\n{"a": 5}')
    assert read(path) == [
        (f"rows.jsonl:{line}", {"a": n}) for line, n in ((1, 1), (3, 2), (5, 3), (6, 4), (8, 5))
    ]
    assert count_rows(source(path)) == 5


@given(
    st.lists(st.sampled_from([b"a", b" ", b"bb" * 5, b"\n", b"\r", b"\r\n", b"\xc3\xa9"])), st.integers(1, 7)
)
def test_lines_do_not_depend_on_where_a_chunk_ends(
    tmp_path_factory: Any, pieces: list[bytes], size: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "rows.txt"
    path.write_bytes(b"".join(pieces))
    file = SourceFile(str(path), "text", "rows.txt")
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(reading, "CHUNK_BYTES", size)
        assert list(reading.lines(file)) == path.read_bytes().splitlines()
        assert b"".join(reading.lines(file, keep_ends=True)) == path.read_bytes()


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=3), st.none() | st.integers() | st.text() | st.lists(st.floats(-1, 1))
        )
    ),
    st.integers(1, 9),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_elements_do_not_depend_on_where_a_chunk_ends(
    tmp_path_factory: Any, rows: list[dict[str, Any]], size: int, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("array") / "rows.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode(errors="surrogatepass"))
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr("sft.data.readers.json_rows.CHUNK_BYTES", size)
        file = SourceFile(str(path), "json", "rows.json")
        assert [row for block in read_blocks(Part("rows", (file,)), 3) for _, row in parse(block)] == rows


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("rows.json", '{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        ("rows.json", '{"text": "a"}', "jsonl"),
        ("rows.json", '{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n', "json"),
        ("rows.json", '  [{"text": "a"}]', "json"),
        ("rows.jsonl", '[\n{"text": "a"}\n]\n', "json"),
        ("rows.jsonl", '[{"text": "a"}]', "json"),
        ("rows.json", '{"messages": [{"role": "user", "content": "a"}]}', "jsonl"),
        ("rows.ndjson", '{"text": "a"}\n', "jsonl"),
    ],
)
def test_json_is_taken_for_what_it_holds(tmp_path: Path, name: str, text: str, kind: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert source(path).kind == kind
    assert len(read(path)) == count_rows(source(path)) == (2 if text.count('"text"') == 2 else 1)


def test_suffixes_say_kind_and_packing() -> None:
    names = ("a.jsonl", "a.b.CSV.gz", "x/a.json.zst", "a.gz", "a", "a.parquet")
    assert [kind_of(name) for name in names] == [
        ("jsonl", None),
        ("csv", "gzip"),
        ("json", "zstd"),
        (None, "gzip"),
        (None, None),
        ("parquet", None),
    ]


def test_gzip_of_several_members_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n') + gzip.compress(b'{"a": 2}\n'))
    assert [row for _, row in read(path)] == [{"a": 1}, {"a": 2}]
    (path := tmp_path / "rows.jsonl.zst").write_bytes(zstd(b'{"a": 1}\n') + zstd(b'{"a": 2}\n'))
    assert [row for _, row in read(path)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "arrow"])
@pytest.mark.parametrize("keep", [[0], [3], [1, 2], [0, 2, 5, 7], list(range(8)), []])
def test_only_kept_rows_are_in_blocks(tmp_path: Path, kind: str, keep: list[int]) -> None:
    files = []
    for name in "ab":
        path = tmp_path / f"{name}.{kind}"
        path.write_bytes(content(kind))
        files.append(source(path))
    part = Part("both", tuple(files), keep=np.array(keep, dtype=np.int64))
    found = [(block.file.name[0], row["text"]) for block in read_blocks(part, 3) for _, row in parse(block)]
    whole = [(name, row["text"]) for name in "ab" for row in ROWS]
    assert found == [whole[ordinal] for ordinal in keep]


def test_blocks_pickle_and_hold_so_many_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(b'{"n": %d}\n' % n for n in range(1000)))
    blocks = list(read_blocks(Part("rows", (source(path),)), 300))
    assert [len(block.rows) for block in blocks] == [300, 300, 300, 100]
    assert blocks[0].rows[0] == b'{"n": 0}'  # parsed by the worker
    assert list(parse(pickle.loads(pickle.dumps(blocks[3]))))[-1] == (1000, {"n": 999})


def test_a_block_of_long_lines_has_fewer_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((b'{"text": "' + b"x" * (3 << 20) + b'"}\n') * 7)
    assert [len(block.rows) for block in read_blocks(Part("rows", (source(path),)))] == [3, 3, 1]


def test_columns_are_selected(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1, "b": 2}\n{"b": 3, "c": 4}\n')
    assert [row for _, row in read(path, columns=("a", "b"))] == [{"a": 1, "b": 2}, {"b": 3}]


def test_mixed_types_that_datasets_keeps_as_json_come_back(tmp_path: Path) -> None:
    """Arguments of tool calls differ from row to row; `datasets` holds them as JSON in Arrow."""
    import datasets

    rows = [{"call": [{"arguments": {"a": 1}}, {"arguments": None}]}, {"call": [{"arguments": {"b": ["x"]}}]}]
    features = datasets.Features({"call": datasets.List({"arguments": datasets.Json()})})
    written = datasets.Dataset.from_list(rows, features=features)
    written.save_to_disk(tmp_path / "saved")
    written.to_parquet(tmp_path / "rows.parquet")
    assert [row for _, row in read(next((tmp_path / "saved").glob("*.arrow")))] == rows
    assert [row for _, row in read(tmp_path / "rows.parquet")] == rows


def test_reading_lines_needs_neither_datasets_nor_pyarrow(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content("jsonl"))
    code = f"""
import sys
from sft.config.run import DatasetMixtureConfig, ScriptArguments
from sft.data.readers.read import parse, read_blocks
from sft.data.source import open_splits
train, _ = open_splits(ScriptArguments(dataset_name={str(path)!r}), DatasetMixtureConfig(), evaluates=False)
rows = [row for part in train.parts for block in read_blocks(part) for row in parse(block)]
assert len(rows) == 4
assert not {{"datasets", "pyarrow", "pandas", "torch"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
