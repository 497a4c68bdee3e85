"""What the files of a model's weights say of themselves, without torch: names, shapes, types, and whether all is there.

A safetensors file begins with eight bytes that count its header, and the header: JSON, for every tensor its type, its
shape and where its bytes lie. So a torn file is seen without reading it.

Source:
    https://huggingface.co/docs/safetensors (format).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
            try:
                shards = json.loads((directory / index).read_text(encoding="utf-8"))["weight_map"].values()
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise BrokenError(f"{index} is broken: {error}") from None
            return [directory / name for name in sorted(set(shards))]
    raise BrokenError(f"{SAFE} is not there")


def missing_weights(directory: Path) -> list[str]:
    """Say of every file of weights that is not there, or not whole, what is wrong with it."""
    try:
        files = weight_files(directory)
    except BrokenError as error:
        return [str(error)]
    found = []
    for file in files:
        if not file.is_file():
            found.append(f"{file.name} is not there")
        elif file.suffix == ".safetensors":
            try:
                read_header(file)
            except BrokenError as error:
                found.append(str(error))
        elif not file.stat().st_size:
            found.append(f"{file.name} is empty")
    return found


def read_tensors(directory: Path) -> list[Tensor] | None:
    """List the tensors of a model; None where they are not safetensors, or not whole."""
    try:
        files = weight_files(directory)
        if any(file.suffix != ".safetensors" for file in files):
            return None
        return [tensor for file in files for tensor in _tensors(read_header(file))]
    except (BrokenError, OSError):
        return None


def read_header(file: Path) -> dict[str, Any]:
    """Read the header of one file.

    Raises:
        BrokenError: it has none, or the file is shorter or longer than its header says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(LONGEST_HEADER, size - 8):
            raise BrokenError(f"{file.name} is no safetensors file")
        try:
            header = json.loads(stream.read(length))
            end = max((tensor["data_offsets"][1] for name, tensor in _entries(header)), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise BrokenError(f"{file.name} has a broken header") from None
    if size != 8 + length + end:
        raise BrokenError(
            f"{file.name} is torn: it has {size:,} bytes, and its header tells of {8 + length + end:,}"
        )
    return dict(header)


def _entries(header: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, entry) for name, entry in header.items() if name != "__metadata__")


def _tensors(header: dict[str, Any]) -> Iterator[Tensor]:
    for name, entry in _entries(header):
        yield Tensor(name, tuple(entry["shape"]), str(entry["dtype"]))
