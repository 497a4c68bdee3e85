"""Take what a save writes into memory, so that training goes on while it is written. Below the torch line.

transformers, PEFT, DeepSpeed and accelerate all write their large files through `torch.save` and
safetensors' `save_file`. While `captured` holds, what those two are given for a path under its directory is copied
to host memory instead, and handed out as files to write later. Small files (JSON, the tokenizer) are left to be
written where the libraries write them.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from sft.checkpoint.write import Pending

LEFT_OUT = ("training_args.bin", "README.md")
"""Not written: a pickle of the trainer's arguments and PEFT's draft of a card. Both hold local paths, so that they are
not pushed, and no resume reads them."""

BY_NAME = (
    (
        "transformers.modeling_utils",
        "safe_save_file",
        "save_pretrained's own name for safetensors' save_file",
    ),
    ("peft.peft_model", "safe_save_file", "the same of PEFT's save_pretrained"),
)
"""Private names that are replaced for the length of a save: module, name, reason."""

BLOCK_BYTES = 1 << 24
ALIGNMENT = 64
SMALL_BYTES = 1 << 18
CHUNK_BYTES = 1 << 22
MOST_THREADS = 4
"""What one rank copies with, at most: a few threads fill a machine's memory channels."""

Place = Callable[[int], bool]
"""Says whether so many bytes more fit in memory."""


@contextmanager
def captured(
    root: Path, files: list[Pending], arena: Arena, fits: Place, write_now: Callable[[Pending], None]
) -> Iterator[None]:
    """Collect what is saved under `root` into `files`.

    Args:
        arena: where the copies lie until the files are written.
        fits: where it says no, the file is not copied but given to `write_now`, which must not raise: the ranks
            are in the middle of a save that they make together.
    """

    def take(path: Path, payload: Any, write: Callable[[Any, Path], None]) -> None:
        if path.name in LEFT_OUT:
            return
        name, size = path.relative_to(root).as_posix(), nbytes(payload)
        if fits(size):
            files.append(Pending(name, size, partial(write, on_host(payload, arena))))
        else:
            write_now(Pending(name, size, partial(write, payload)))

    torch_save, save_file = torch.save, safetensors.torch.save_file

    def save(obj: Any, f: Any, *arguments: Any, **keywords: Any) -> None:
        path = _under(root, f)
        if path is None:
            torch_save(obj, f, *arguments, **keywords)
        else:
            take(path, obj, lambda payload, target: torch_save(payload, target, *arguments, **keywords))

    def save_tensors(tensors: Any, filename: Any, metadata: dict[str, str] | None = None) -> None:
        path = _under(root, filename)
        if path is None:
            save_file(tensors, filename, metadata)
        else:
            take(path, tensors, lambda payload, target: save_file(payload, target, metadata))

    replaced = [(torch, "save", save), (safetensors.torch, "save_file", save_tensors)]
    replaced += [
        (sys.modules[module], name, save_tensors) for module, name, _ in BY_NAME if module in sys.modules
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, ours in replaced:
        setattr(module, name, ours)
    try:
        yield
    finally:
        for module, name, theirs in before:
            setattr(module, name, theirs)


def _under(root: Path, target: Any) -> Path | None:
    if not isinstance(target, (str, Path)):
        return None
    path = Path(target)
    return path if path.is_relative_to(root) else None


def nbytes(value: Any, seen: set[int] | None = None) -> int:
    """Count the bytes of the storages that a value's tensors lie in, each once."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    if isinstance(value, Mapping):
        return sum(nbytes(item, seen) for item in value.values())
    if isinstance(value, (list, tuple, set)):
        return sum(nbytes(item, seen) for item in value)
    return 0


class Arena:
    """Host memory for the copies of one save, kept for the next: fresh memory costs more than the copying."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray[Any, Any]] = []
        self._block, self._offset = 0, 0
        self._taken: set[int] = set()
        self._pool = ThreadPoolExecutor(_threads(), thread_name_prefix="copy")
        self._copies: list[Future[None]] = []

    @property
    def bytes(self) -> int:
        """How much it holds."""
        return sum(block.nbytes for block in self._blocks)

    def reset(self) -> None:
        """Begin anew; what was handed out is overwritten from now on."""
        self._block, self._offset = 0, 0
        self._taken.clear()

    def take(self, size: int) -> torch.Tensor:
        """Return uint8 memory, as a tensor whose storage is this and no more."""
        if size == 0:
            return torch.empty(0, dtype=torch.uint8)
        while self._block < len(self._blocks):
            start = self._offset
            if start + size <= self._blocks[self._block].nbytes:
                self._offset = -(-(start + size) // ALIGNMENT) * ALIGNMENT
                taken = torch.frombuffer(
                    self._blocks[self._block], dtype=torch.uint8, count=size, offset=start
                )
                self._taken.add(taken.data_ptr())
                return taken
            self._block, self._offset = self._block + 1, 0
        self._blocks.append(np.empty(max(size, BLOCK_BYTES), dtype=np.uint8))
        return self.take(size)

    def holds(self, storage: torch.UntypedStorage) -> bool:
        """Tell whether this is memory that it has handed out."""
        return storage.data_ptr() in self._taken

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy bytes from wherever they lie; they have arrived after `settle`.

        Within host memory with threads of its own: under a launcher torch has one, and alone it shares even a small
        copy out.
        """
        if source.device.type != "cpu":
            target.copy_(source)
            return
        to, of = target.numpy(), source.numpy()
        if len(to) < SMALL_BYTES:
            np.copyto(to, of)
            return
        for start in range(0, len(to), CHUNK_BYTES):
            part = slice(start, start + CHUNK_BYTES)
            self._copies.append(self._pool.submit(np.copyto, to[part], of[part]))

    def settle(self) -> None:
        """Wait for all copies."""
        for each in self._copies:
            each.result()
        self._copies.clear()


def _threads() -> int:
    """Share this machine's processors out among its ranks."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) // ranks_here))


def on_host(value: Any, arena: Arena) -> Any:
    """Copy a state dict to host memory: tensors that share a storage still do, everything else as it was.

    A tensor that covers less than its storage drags the whole of it along, as in `torch.save`. What lies in the arena
    stays there.
    """
    made = _on_host(value, arena, {})
    arena.settle()
    return made


def _on_host(value: Any, arena: Arena, storages: dict[tuple[str, int], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return _tensor_on_host(value, arena, storages)
    if isinstance(value, dict):
        made = copy.copy(value)
        made.update((key, _on_host(item, arena, storages)) for key, item in value.items())
        return made
    if isinstance(value, list):
        return [_on_host(item, arena, storages) for item in value]
    if isinstance(value, tuple):
        items = [_on_host(item, arena, storages) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if value is None or isinstance(value, (bool, int, float, str, bytes, type)):
        return value
    return copy.deepcopy(value)


def _tensor_on_host(
    tensor: torch.Tensor, arena: Arena, storages: dict[tuple[str, int], torch.Tensor]
) -> torch.Tensor:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return tensor.detach().clone().cpu()
    storage = tensor.untyped_storage()
    if arena.holds(storage):
        return tensor
    key = (str(tensor.device), storage.data_ptr())
    if key not in storages:
        whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
        storages[key] = arena.take(storage.nbytes())
        arena.copy(storages[key], whole)
    found = torch.empty(0, dtype=tensor.dtype).set_(
        storages[key].untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
    )
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(found, requires_grad=tensor.requires_grad)
    return found
