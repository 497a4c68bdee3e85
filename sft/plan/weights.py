"""What the files of a model's weights say of themselves, without torch: names, shapes, types, and whether all is there.

A safetensors file begins with eight bytes that count its header, and the header: JSON, for every tensor its type, its
shape and where its bytes lie. So a torn file is seen without reading it.

Source:
    https://huggingface.co/docs/safetensors (format).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from sft.json_file import UnreadableError, parse_json, read_json

SAFE = "model.safetensors"
SAFE_INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
LONGEST_HEADER = 100_000_000
"""The bound of the safetensors library itself."""
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip


class BrokenError(Exception):
    """A file of weights, or their list, is not what it must be."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        """The numbers in it."""
        return math.prod(self.shape)

    @property
    def bytes_each(self) -> float:
        """The size of one number."""
        return BITS.get(self.dtype, 8) / 8


def weight_files(directory: Path) -> list[Path]:
    """List the files that hold the weights, as transformers would choose them; all that an index lists, there or not.

    Raises:
        BrokenError: there are none, or the index is broken.
    """
    for whole, index in ((SAFE, SAFE_INDEX), (PICKLED, PICKLED_INDEX)):
        if (directory / whole).is_file():
            return [directory / whole]
        if (directory / index).is_file():
            return [directory / name for name in sorted(set(weight_map(directory / index).values()))]
    raise BrokenError(f"{SAFE} is not there")


def weight_map(index: Path) -> dict[str, str]:
    """Read which file holds each tensor.

    Raises:
        BrokenError: the index does not say it.
    """
    try:
        listed = (read_json(index) or {}).get("weight_map")
    except UnreadableError as error:
        raise BrokenError(f"{index.name} is broken: it {error.reason}") from None
    if not isinstance(listed, dict) or not listed:
        raise BrokenError(f"{index.name} is broken: it lists no weights")
    wrong = [name for name in listed.values() if not _is_file_name(name)]
    if wrong:
        raise BrokenError(f"{index.name} is broken: no file can be called {wrong[0]!r}")
    return listed


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and "\0" not in name


def missing_weights(directory: Path) -> list[str]:
    """Say of every file of weights that is not there, or not whole, what is wrong with it."""
    try:
        files = weight_files(directory)
    except BrokenError as error:
        return [str(error)]
    found, is_empty = [], True
    for file in files:
        if not os.path.isfile(file):  # whatever the name is: Path.is_file raises for one that is too long
            found.append(f"{file.name} is not there")
        elif file.suffix == ".safetensors":
            try:
                is_empty &= not any(tensors_of(read_header(file)))
            except BrokenError as error:
                found.append(str(error))
        elif not file.stat().st_size:
            found.append(f"{file.name} is empty")
        else:
            is_empty = False
    if is_empty and not found:
        found.append(f"{files[0].name} holds no weights" if len(files) == 1 else "its files hold no weights")
    return found


def read_tensors(directory: Path) -> list[Tensor] | None:
    """List the tensors of a model; None where they are not safetensors, not whole, or none."""
    try:
        files = weight_files(directory)
        if any(file.suffix != ".safetensors" for file in files):
            return None
        return [tensor for file in files for tensor in tensors_of(read_header(file))] or None
    except (BrokenError, OSError):
        return None


def read_header(file: Path) -> dict[str, Any]:
    """Read the header of one file.

    Raises:
        BrokenError: it has none, or the file is shorter or longer than its header says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = header_bytes(file.name, stream.read(8))
        if length > size - 8:
            raise BrokenError(f"{file.name} is no safetensors file")
        header = parse_header(file.name, stream.read(length))
    end = max((tensor["data_offsets"][1] for name, tensor in _entries(header)), default=0)
    if size != 8 + length + end:
        raise BrokenError(
            f"{file.name} is torn: it has {size:,} bytes, and its header tells of {8 + length + end:,}"
        )
    return header


def header_bytes(name: str, start: bytes) -> int:
    """Read how long a header is from the first 8 bytes of a file; the header comes after them.

    Raises:
        BrokenError: no header is that long.
    """
    length = int(struct.unpack("<Q", start)[0]) if len(start) == 8 else 0
    if not 0 < length <= LONGEST_HEADER:
        raise BrokenError(f"{name} is no safetensors file")
    return length


def parse_header(name: str, text: bytes) -> dict[str, Any]:
    """Read the header of a file.

    Raises:
        BrokenError: it is none.
    """
    try:
        header = parse_json(text)
    except ValueError:
        raise BrokenError(f"{name} has a broken header") from None
    if not all(_is_tensor(entry) for _, entry in _entries(header)):
        raise BrokenError(f"{name} has a broken header")
    return header


def _is_tensor(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    return _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2


def _are_counts(numbers: object) -> TypeGuard[list[int]]:
    return isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)


def tensors_of(header: dict[str, Any]) -> Iterator[Tensor]:
    """List the tensors that a header tells of."""
    for name, entry in _entries(header):
        yield Tensor(name, tuple(entry["shape"]), str(entry["dtype"]))


def _entries(header: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, entry) for name, entry in header.items() if name != "__metadata__")
