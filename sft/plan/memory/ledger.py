"""Bytes that are alive: a ledger of them, the buffers that take and give them back, and the leaves of a model.

Source:
    torch/csrc/autograd/functions/accumulate_grad.h: the first gradient of a leaf is taken as it is, others are added to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable


class Ledger:
    """The bytes that are alive, by kind, and how they were composed when there were most of them.

    Attributes:
        stages: the most that was alive in each stage.
    """

    __slots__ = ("_stage", "_stage_peak", "at_peak", "live", "peak", "stages", "total")

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.total = 0
        self.peak = 0
        self.at_peak: dict[str, int] = {}
        self.stages: dict[str, int] = {}
        self._stage, self._stage_peak = "", 0

    def take(self, kind: str, size: int) -> None:
        """Count bytes as alive."""
        self.live[kind] = self.live.get(kind, 0) + size
        self.total += size
        if self.total > self.peak:
            self.peak = self.total
            self.at_peak = dict(self.live)
        if self.total > self._stage_peak:
            self._stage_peak = self.total

    def enter(self, stage: str) -> None:
        """Count what is alive from here on as of a stage; none, by an empty name, ends the last one."""
        if self._stage:
            self.stages[self._stage] = max(self.stages.get(self._stage, 0), self._stage_peak)
        self._stage, self._stage_peak = stage, self.total

    def give(self, kind: str, size: int) -> None:
        """Count bytes as freed."""
        self.live[kind] -= size
        self.total -= size


class Buffer:
    """Memory that is alive as long as something refers to this object."""

    __slots__ = ("kind", "ledger", "size", "users")

    def __init__(self, ledger: Ledger, kind: str, size: int) -> None:
        self.ledger, self.kind, self.size, self.users = ledger, kind, size, 1
        ledger.take(kind, size)

    def __del__(self) -> None:
        self.ledger.give(self.kind, self.size)

    def become(self, kind: str) -> None:
        """Count it as another kind from now on."""
        self.ledger.give(self.kind, self.size)
        self.kind = kind
        self.ledger.take(kind, self.size)


class Parameter:
    """A leaf. Its own bytes are counted elsewhere; its gradient is counted here.

    Attributes:
        numbers: of the whole weight, as the forward sees it; `sides` are its two, (0, 0) of one that has not two.
        width: bytes of a number, as it is computed with; `own_width` as it is stored and updated.
        tensors: how many it stands for.
        stored: bytes that it takes where it lies, if these are not its size: a quantised matrix.
        is_embedding: bitsandbytes keeps its moments in float32, whatever it does with others.
        projected: the optimizer keeps moments of a projection of its gradient.
        take_grad: takes each gradient in place of `.grad`: a strategy that reduces and shards it at once.
    """

    __slots__ = (
        "grad",
        "is_adapter",
        "is_embedding",
        "needs_grad",
        "numbers",
        "own_width",
        "projected",
        "sides",
        "stored",
        "take_grad",
        "tensors",
        "width",
    )

    def __init__(
        self,
        numbers: int,
        width: float,
        *,
        trained: bool,
        sides: tuple[int, int] = (0, 0),
        tensors: int = 1,
        is_adapter: bool = False,
        stored: int | None = None,
        own_width: float | None = None,
        projected: bool = False,
        is_embedding: bool = False,
    ) -> None:
        self.numbers, self.width, self.needs_grad = numbers, width, trained
        self.sides, self.tensors, self.is_adapter = sides, tensors, is_adapter
        self.own_width = width if own_width is None else own_width
        self.stored, self.projected, self.is_embedding = stored, projected, is_embedding
        self.grad: Buffer | None = None
        self.take_grad: Callable[[Buffer], None] | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return math.ceil(self.numbers * self.width)

    @property
    def held(self) -> int:
        """Bytes that it takes where it lies."""
        return self.own_size if self.stored is None else self.stored

    @property
    def own_size(self) -> int:
        """Bytes of what the optimizer updates."""
        return math.ceil(self.numbers * self.own_width)

    def accumulate(self, grad: Buffer) -> None:
        """Keep a gradient: the first one as it is, others added to it."""
        if self.take_grad is not None:
            self.take_grad(grad)
        elif self.grad is None:
            grad.become("gradients")
            self.grad = grad
