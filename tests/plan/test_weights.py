"""Files of weights that are broken are told as what they are, whatever stands in them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from sft.plan.weights import (
    SAFE,
    SAFE_INDEX,
    BrokenError,
    missing_weights,
    parse_header,
    read_tensors,
    weight_map,
)

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def safetensors(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


@pytest.mark.parametrize(
    "entry",
    [
        {key: value for key, value in ENTRY.items() if key != lacking} for lacking in ENTRY
    ]
    + [
        {**ENTRY, **change}
        for change in (
            {"dtype": 32},
            {"shape": None},
            {"shape": ["2"]},
            {"shape": [-2]},
            {"shape": [2.0]},
            {"shape": "22"},
            {"data_offsets": ["0", "8"]},
            {"data_offsets": [0]},
            {"data_offsets": [0, float("nan")]},
            {"data_offsets": {"0": 8}},
        )
    ]
    + [None, [], "F32"],
)  # fmt: skip
def test_a_header_that_lacks_something_is_broken(entry: Any) -> None:
    header = json.dumps({"whole": ENTRY, "broken": entry}).encode()
    with pytest.raises(BrokenError, match=r"^x\.safetensors has a broken header$"):
        parse_header("x.safetensors", header)


@pytest.mark.parametrize("header", [b"[" * 200_000, b"[1]", b"\xff\xfe{}", b"{", b"7"])
def test_a_header_that_is_no_object_is_broken(tmp_path: Path, header: bytes) -> None:
    (tmp_path / SAFE).write_bytes(safetensors(header))
    assert missing_weights(tmp_path) == ["model.safetensors has a broken header"]
    assert read_tensors(tmp_path) is None


def test_metadata_is_no_tensor() -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}, "whole": ENTRY}).encode()
    assert parse_header("x.safetensors", header)["whole"] == ENTRY


def test_weights_that_hold_nothing_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / SAFE).write_bytes(safetensors(b"{}"))
    assert missing_weights(tmp_path) == ["model.safetensors holds no weights"]
    assert read_tensors(tmp_path) is None
    (tmp_path / SAFE).unlink()
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(safetensors(b'{"__metadata__": {}}'))
    listed = {"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}
    (tmp_path / SAFE_INDEX).write_text(json.dumps(listed))
    assert missing_weights(tmp_path) == ["its files hold no weights"]
    (tmp_path / "b.safetensors").write_bytes(safetensors(json.dumps({"two": ENTRY}).encode(), b"\0" * 8))
    assert missing_weights(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "it lists no weights"),
        ({"weight_map": {}}, "it lists no weights"),
        ({"weight_map": None}, "it lists no weights"),
        ({"weight_map": ["a"]}, "it lists no weights"),
        ("abc", "it holds no JSON object"),
        ({"weight_map": {"a": 1}}, "no file can be called 1"),
        ({"weight_map": {"a": None}}, "no file can be called None"),
        ({"weight_map": {"a": ["x"]}}, "no file can be called ['x']"),
        ({"weight_map": {"a": "x.safetensors", "b": 1}}, "no file can be called 1"),
        ({"weight_map": {"a": "x\0.safetensors"}}, "no file can be called 'x\\x00.safetensors'"),
        ({"weight_map": {"a": ""}}, "no file can be called ''"),
    ],
)  # fmt: skip
def test_an_index_that_names_no_files_is_broken(tmp_path: Path, content: Any, reason: str) -> None:
    (tmp_path / SAFE_INDEX).write_text(json.dumps(content))
    assert missing_weights(tmp_path) == [f"model.safetensors.index.json is broken: {reason}"]
    assert read_tensors(tmp_path) is None


def test_a_name_that_is_too_long_is_of_no_file(tmp_path: Path) -> None:
    name = f"{'x' * 300}.safetensors"
    (tmp_path / SAFE_INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    assert missing_weights(tmp_path) == [f"{name} is not there"]


def test_a_whole_model_is_whole(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / SAFE, tmp_path)
    tensors = read_tensors(tmp_path)
    assert tensors is not None
    assert missing_weights(tmp_path) == []
    (tmp_path / SAFE_INDEX).write_text(json.dumps({"weight_map": {tensors[0].name: SAFE}}))
    assert weight_map(tmp_path / SAFE_INDEX) == {tensors[0].name: SAFE}
