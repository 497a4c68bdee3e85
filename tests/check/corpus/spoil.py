"""Ways to spoil a setup for real: small and read-only file systems, files that may not be read, weights of other shapes."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from sft.plan.weights import read_header
from tests.check.corpus.bench import Bench

CAPABILITIES_VERSION = 0x20080522
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2
"""By which root passes over permission bits: linux/capability.h."""


def small_disk(bench: Bench, place: Path, options: str) -> Path:
    """Mount a small tmpfs for the length of a case, or skip it."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", place], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("a full disk is a small tmpfs here, and mounting one needs root")
    bench.stack.callback(subprocess.run, ["umount", place], check=True)
    return place


def read_only(bench: Bench, place: Path) -> Path:
    """Have a directory mounted read-only for the length of a case, for root too; or skip it."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "--bind", place, place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("root writes to any directory that is not mounted read-only, and may not mount here")
    bench.stack.callback(subprocess.run, ["umount", place], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
    return place


@contextmanager
def as_anybody() -> Iterator[None]:
    """Have permission bits hold for root too, in this thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: the low words, then the high ones
    if libc.capget(header, sets):
        pytest.skip("capabilities cannot be read here")
    before = sets[0]
    sets[0] = before & ~(1 << DAC_OVERRIDE) & ~(1 << DAC_READ_SEARCH)
    if libc.capset(header, sets):
        pytest.skip("capabilities cannot be laid down here")
    try:
        yield
    finally:
        sets[0] = before
        libc.capset(header, sets)


def forbid(bench: Bench, path: Path, mode: int = 0) -> None:
    """Take the permission bits of a path away for the length of a case."""
    was = path.stat().st_mode
    bench.stack.callback(os.chmod, path, was)
    path.chmod(mode)
    bench.stack.enter_context(as_anybody())


def write_weights(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Write a safetensors file of zeros: name -> type and shape."""
    sizes = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "U8": 1}
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = sizes[dtype]
        for number in shape:
            size *= number
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * at)


def shapes_of(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return what `write_weights` takes, of a file that is there."""
    return {
        name: (entry["dtype"], tuple(entry["shape"]))
        for name, entry in read_header(path).items()
        if name != "__metadata__"
    }


def shard(model: Path, shards: int = 2) -> dict[str, str]:
    """Cut a model's file into shards with an index; return the index."""
    whole = model / "model.safetensors"
    tensors = shapes_of(whole)
    names = sorted(tensors)
    listed = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number::shards]
        write_weights(model / file, {name: tensors[name] for name in part})
        listed |= dict.fromkeys(part, file)
    whole.unlink()
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": listed}), encoding="utf-8"
    )
    return listed
