"""Write a model of a few layers: the kept tensors byte by byte, a changed config.json, links to the rest. No torch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sft.check.deep.layers import CannotCutError, Layers, cut_config, experts_of, find_layers
from sft.json_file import read_json
from sft.plan.weights import (
    BITS,
    PICKLED_INDEX,
    SAFE,
    SAFE_INDEX,
    BrokenError,
    Tensor,
    read_header,
    weight_files,
)

LARGE_BYTES = 1 << 30
"""From this size on, kept layers of experts keep only a few of them."""
HEAVY = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ckpt")
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of the cut, and where its bytes lie: `size` of them in `file`, from `start` on."""

    tensor: Tensor
    file: Path
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A model that is to be cut.

    Attributes:
        source: the model's directory.
        names: its tensors' names before.
        config: the new config.json.
    """

    source: Path
    layers: Layers
    names: tuple[str, ...]
    pieces: tuple[Piece, ...]
    config: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """What is left."""
        return [piece.tensor for piece in self.pieces]

    @property
    def numbers(self) -> int:
        """How many weights are left."""
        return sum(tensor.count for tensor in self.tensors)

    @property
    def bytes(self) -> int:
        """What the weights take on the disk."""
        return sum(piece.size for piece in self.pieces)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return len(self.layers.kept) == self.layers.count and self.layers.experts is None

    def told(self) -> str:
        """Say what is left, for people."""
        kept, count = self.layers.kept, self.layers.count
        if self.is_whole:
            return f"all {count} layers"
        which = ", ".join(map(str, kept)) if len(kept) < 9 else f"0 to {kept[-1]}"
        experts = f", {self.layers.experts} experts each" if self.layers.experts else ""
        return f"{len(kept)} of {count} layers ({which}{experts})"


def plan_cut(source: Path, *, large_bytes: int = LARGE_BYTES) -> Cut:
    """Read the headers of a model's weights and choose what is kept.

    Raises:
        CannotCutError: its weights are not safetensors, not whole, or not laid out in layers.
    """
    try:
        config = read_json(source / "config.json")
        files = weight_files(source)
    except (OSError, ValueError, BrokenError) as error:
        raise CannotCutError(str(error)) from None
    if config is None:
        raise CannotCutError("config.json is not there")
    if any(file.suffix != ".safetensors" for file in files):
        raise CannotCutError("its weights are pickles, not safetensors")
    try:
        found = [piece for file in files for piece in _pieces(file)]
    except (OSError, BrokenError) as error:
        raise CannotCutError(str(error)) from None
    tensors = [piece.tensor for piece in found]
    layers = find_layers(tensors, config, most_bytes=large_bytes)
    experts = experts_of(config)
    kept = []
    for piece in found:
        name = layers.renamed(piece.tensor.name)
        if name is None:
            continue
        shape = layers.shape(piece.tensor, experts)
        share = math.prod(shape) / max(1, piece.tensor.count)
        tensor = Tensor(name, shape, piece.tensor.dtype)
        # The first experts of a tensor of all of them are its first bytes.
        kept.append(Piece(tensor, piece.file, piece.start, round(piece.size * share)))
    return Cut(
        source, layers, tuple(tensor.name for tensor in tensors), tuple(kept), cut_config(config, layers)
    )


def write_description(cut: Cut, target: Path) -> None:
    """Make the model's directory, with all but its weights."""
    target.mkdir(parents=True)
    for path in cut.source.iterdir():
        is_weights = path.suffix in HEAVY or path.name in (SAFE_INDEX, PICKLED_INDEX)
        if path.name != "config.json" and not is_weights:
            (target / path.name).symlink_to(path.absolute())
    (target / "config.json").write_text(json.dumps(cut.config, indent=2), encoding="utf-8")


def write_weights(cut: Cut, target: Path) -> None:
    """Write the kept tensors into the model's directory.

    Raises:
        OSError: the disk is full, or a file cannot be read.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for piece in cut.pieces:
        start, end = end, end + piece.size
        header[piece.tensor.name] = {
            "dtype": piece.tensor.dtype,
            "shape": list(piece.tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
    with (target / SAFE).open("wb") as written:
        written.write(struct.pack("<Q", len(text)) + text)
        for piece in cut.pieces:
            with piece.file.open("rb") as read:
                read.seek(piece.start)
                _copy(read, written, piece.size)


def _pieces(file: Path) -> Iterator[Piece]:
    """List the tensors of one file.

    Raises:
        BrokenError: the file is torn.
        CannotCutError: a number type is not known by its size.
    """
    header = read_header(file)
    with file.open("rb") as stream:
        begin = 8 + int(struct.unpack("<Q", stream.read(8))[0])
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        tensor = Tensor(name, tuple(entry["shape"]), str(entry["dtype"]))
        if tensor.dtype in BITS and tensor.count * BITS[tensor.dtype] != 8 * (end - start):
            raise CannotCutError(
                f"{file.name} has {end - start} bytes for {name}, {tensor.shape} of {tensor.dtype}"
            )
        yield Piece(tensor, file, begin + start, end - start)


def _copy(read: IO[bytes], written: IO[bytes], size: int) -> None:
    while size:
        chunk = read.read(min(size, CHUNK_BYTES))
        if not chunk:
            raise OSError("a file of weights has become shorter while it was read")
        written.write(chunk)
        size -= len(chunk)
