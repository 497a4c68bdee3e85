"""Count the bytes of the tensors that are alive, operator by operator.

A dispatch mode sees every operator below autograd and autocast, so what autograd keeps for the backward is counted as
long as it keeps it; what one kernel uses within itself is not seen. Storages are counted once, whatever looks at them.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)


def _narrow_product(func: Any, matrices: Any) -> Any:
    """Multiply in float32 what is narrower: many CPUs take thirty times as long for bfloat16. What is kept is the same."""
    kind = matrices[0].dtype
    if kind not in (torch.bfloat16, torch.float16):
        return func(*matrices)
    return func(*(matrix.float() for matrix in matrices)).to(kind)


class _Seen:
    """A storage that is counted: while it lives, with the size that it had when it was last looked at."""

    __slots__ = ("bytes", "made_by", "reference")

    def __init__(self, storage: Any, made_by: str, on_death: Any) -> None:
        self.bytes, self.made_by = storage.nbytes(), made_by
        self.reference = weakref.ref(storage, on_death)


class LiveBytes(TorchDispatchMode):
    """The sum over all storages that were made while it was on, or were shown to it, and its peak.

    Attributes:
        resizes: storages are emptied and filled in place (ZeRO-3, FSDP2), so each is looked at again at each operator.
        at_peak: operator that made a storage -> bytes that were alive of it at the peak.
    """

    def __init__(self, *, resizes: bool = False) -> None:
        super().__init__()
        self.resizes = resizes
        self._seen: dict[int, _Seen] = {}
        self._by_maker: Counter[str] = Counter()
        self.now = self.peak = 0
        self.at_peak: Counter[str] = Counter()

    def show(self, tensor: Any, made_by: str) -> None:
        """Count a tensor's storage from now on."""
        tensor = getattr(tensor, "_local_tensor", tensor)
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):
            return
        if storage.device.type == "meta":
            return
        key = storage._cdata
        known = self._seen.get(key)
        if known is not None and known.reference() is not None:
            self._change(known, storage.nbytes())
            return
        self._seen[key] = seen = _Seen(storage, made_by, lambda _: self._forget(key, seen))
        self.now += seen.bytes
        self._by_maker[made_by] += seen.bytes

    def _change(self, seen: _Seen, size: int) -> None:
        self.now += size - seen.bytes
        self._by_maker[seen.made_by] += size - seen.bytes
        seen.bytes = size

    def _forget(self, key: int, seen: _Seen) -> None:
        self._change(seen, 0)
        if self._seen.get(key) is seen:
            del self._seen[key]

    def reset_peak(self) -> None:
        """Forget the peak that was."""
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = _narrow_product(func, args) if func in PRODUCTS else func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.show(leaf, str(func))
        if self.resizes:
            for seen in [*self._seen.values()]:
                storage = seen.reference()
                if storage is not None:
                    self._change(seen, storage.nbytes())
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, self._by_maker.copy()
        return made
