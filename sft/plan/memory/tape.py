"""A tape of one training step that holds sizes in place of numbers: which bytes are alive when, and why.

It imitates the part of PyTorch that decides about memory, and nothing else: a tensor lives as long as something refers to
it, an operator keeps what its backward will read, a gradient is handed on, added in place, or taken by the parameter that it
belongs to. Python's own counting of references frees a buffer here as it does there, so a layer is written down as its
forward is written, and its peak follows.

Source:
    torch/csrc/autograd: engine.cpp (later operators first), input_buffer.cpp (added in place where nobody else looks),
    functions/accumulate_grad.h (the first gradient is taken as it is); torch/utils/checkpoint.py.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from sft.plan.memory.ledger import Buffer, Ledger, Parameter
from sft.plan.memory.offloading import Away, Offloading


class Tensor:
    """What an operator made: a buffer, how it is looked at, and the operator if a gradient flows back to it."""

    __slots__ = ("buffer", "node", "numbers", "width")

    def __init__(self, buffer: Buffer, numbers: int, width: float, node: Node | None) -> None:
        self.buffer, self.numbers, self.width, self.node = buffer, numbers, width, node

    @property
    def needs_grad(self) -> bool:
        """Whether a gradient flows back to it."""
        return self.node is not None

    @property
    def size(self) -> int:
        """Bytes, as it is looked at."""
        return math.ceil(self.numbers * self.width)


class Node:
    """What an operator leaves behind for its backward.

    Attributes:
        saved: what the backward reads, alive until it has run; or waiting in host memory.
        temporary: bytes that the backward needs beside the gradients that it makes.
        passes: it hands its gradient on as it is, instead of making new ones.
        replay: takes the place of all that: a layer that is computed again first.
        hook: called when its turn comes.
    """

    __slots__ = ("grad", "hook", "order", "passes", "replay", "saved", "targets", "temporary")

    def __init__(self, order: int) -> None:
        self.order = order
        self.targets: list[tuple[Node | Parameter, int]] = []
        self.saved: tuple[Buffer | Away, ...] = ()
        self.temporary = 0
        self.passes = False
        self.replay: Callable[[Buffer, Buffer], Buffer | None] | None = None
        self.hook: Callable[[], None] | None = None
        self.grad: Buffer | None = None


class Tape:
    """Operators in the order in which they run."""

    def __init__(self, ledger: Ledger, offloading: Offloading | None = None) -> None:
        self.ledger, self.offloading = ledger, offloading
        self.records = True
        self.computes_again = False
        self._order = 0

    def buffer(self, size: float, kind: str = "working") -> Buffer:
        """Allocate bytes."""
        return Buffer(self.ledger, kind, math.ceil(size))

    @contextmanager
    def without_grad(self) -> Iterator[None]:
        """Run operators that leave nothing behind."""
        before, self.records = self.records, False
        try:
            yield
        finally:
            self.records = before

    def leaf(self, numbers: int, width: float, *, needs_grad: bool) -> Tensor:
        """Make a tensor that no operator made; its gradient is kept by nobody."""
        node = self._node() if needs_grad and self.records else None
        return Tensor(self.buffer(numbers * width, "activations"), numbers, width, node)

    def detached(self, tensor: Tensor) -> Tensor:
        """Look at the same buffer as at a leaf that a gradient may flow to."""
        return Tensor(tensor.buffer, tensor.numbers, tensor.width, self._node())

    def op(
        self,
        inputs: Sequence[Tensor | Parameter],
        numbers: int,
        width: float,
        *,
        saves: Sequence[Buffer | Tensor | None] = (),
        temporary: float = 0,
        passes: bool = False,
        out: Buffer | None = None,
    ) -> Tensor:
        """Run an operator: allocate what it makes, and keep what its backward reads.

        Args:
            numbers: of the output, `width` bytes each.
            saves: kept if any input needs a gradient.
            temporary: bytes that its backward needs beside the gradients of its inputs.
            out: the buffer of the output, where it is no new one.
        """
        made = out or self.buffer(numbers * width, "activations")
        node = None
        if self.records and any(item.needs_grad for item in inputs):
            node = self._node()
            for item in inputs:
                if isinstance(item, Parameter):
                    if item.needs_grad:
                        node.targets.append((item, item.size))
                elif item.node is not None:
                    node.targets.append((item.node, item.size))
            node.saved = self._keep(
                item.buffer if isinstance(item, Tensor) else item for item in saves if item is not None
            )
            node.temporary, node.passes = math.ceil(temporary), passes
        return Tensor(made, numbers, width, node)

    def mark(self, x: Tensor, hook: Callable[[], None]) -> Tensor:
        """Have something done when the backward comes to this tensor."""
        if x.node is None or not self.records:
            return x
        made = self.op([x], x.numbers, x.width, passes=True, out=x.buffer)
        if made.node is not None:
            made.node.hook = hook
        return made

    def checkpointed(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Run a layer and keep its input alone; its backward computes the layer again."""
        if not self.records:
            return layer(x)
        with self.without_grad():
            out = layer(x)
        node = self._node()
        if x.node is not None:
            node.targets.append((x.node, x.size))
        numbers, width = x.numbers, x.width
        node.saved = self._keep((x.buffer,))

        def replay(grad: Buffer, saved: Buffer) -> Buffer | None:
            inner = Tensor(saved, numbers, width, self._node())
            assert inner.node is not None
            self.computes_again = True
            again = layer(inner)
            self.computes_again = False
            last = again.node
            del again
            if last is not None:
                self.backward(last, grad)
            made, inner.node.grad = inner.node.grad, None
            return made

        node.replay = replay
        return Tensor(out.buffer, out.numbers, out.width, node)

    def backward(self, last: Node, grad: Buffer) -> None:
        """Run the backward of everything before an operator, later ones first."""
        last.grad = grad
        del grad
        waiting = [(-last.order, last)]
        del last
        while waiting:
            node = heapq.heappop(waiting)[1]
            self._run(node, waiting)

    def _run(self, node: Node, waiting: list[tuple[int, Node]]) -> None:
        grad = node.grad
        assert grad is not None
        if not node.targets and node.replay is None:
            return  # a leaf keeps its gradient
        node.grad = None
        if node.hook is not None:
            node.hook()
        made: list[Buffer | None]
        saved = [self._fetch(kept) for kept in node.saved]
        node.saved = ()
        if node.replay is not None:
            made = [node.replay(grad, saved[0])]
            node.replay = None
        elif node.passes:
            made = [grad for _ in node.targets]
            grad.users += len(made)
        else:
            made = [self.buffer(size, "working") for _, size in node.targets]
            if node.temporary:
                self.buffer(node.temporary)
        saved.clear()
        grad.users -= 1
        del grad
        targets, node.targets = node.targets, []
        made.reverse()
        for target, _ in targets:
            given = made.pop()
            if given is not None:
                _deliver(self, target, given, waiting)
            del given

    def _keep(self, buffers: Iterable[Buffer]) -> tuple[Buffer | Away, ...]:
        """Keep what a backward reads: where it is, or in host memory."""
        if self.offloading is None or self.computes_again:
            return tuple(buffers)
        return tuple(map(self.offloading.keep, buffers))

    def _fetch(self, kept: Buffer | Away) -> Buffer:
        return self.buffer(kept.size, "activations") if isinstance(kept, Away) else kept

    def _node(self) -> Node:
        self._order += 1
        return Node(self._order)


def _deliver(tape: Tape, target: Node | Parameter, grad: Buffer, waiting: list[tuple[int, Node]]) -> None:
    if isinstance(target, Parameter):
        target.accumulate(grad)
    elif target.grad is None:
        target.grad = grad
        heapq.heappush(waiting, (-target.order, target))
    else:
        if target.grad.users > 1:
            summed = tape.buffer(target.grad.size)
            target.grad.users -= 1
            target.grad = summed
        grad.users -= 1
