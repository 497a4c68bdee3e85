"""Activations that wait in host memory for their backward, as TRL's `activation_offloading` has them.

Source:
    trl/models/activation_offloading.py: a saved tensor is copied to pinned memory; the last few stay until their copy is
    through; what is saved again while it stays is not copied, and so never leaves the GPU.
"""

from __future__ import annotations

from collections import deque

from sft.plan.memory.ledger import Buffer, Ledger

SMALLEST_BYTES = 1024
STASHED = 5
"""min_offload_size and max_fwd_stash_size."""


class Away:
    """Bytes in host memory, as long as something refers to this object."""

    __slots__ = ("_host", "size")

    def __init__(self, host: Ledger, size: int) -> None:
        self._host = Buffer(host, "activations", size)
        self.size = size


class Offloading:
    """What of a step waits in host memory, counted in a ledger of its own."""

    __slots__ = ("_stash", "host")

    def __init__(self) -> None:
        self.host = Ledger()
        self._stash: deque[Buffer] = deque(maxlen=STASHED)

    def keep(self, buffer: Buffer) -> Buffer | Away:
        """Send a buffer away, unless it is small or was just sent."""
        if buffer.size < SMALLEST_BYTES or any(buffer is one for one in self._stash):
            return buffer
        self._stash.append(buffer)
        return Away(self.host, buffer.size)

    def end_backward(self) -> None:
        """Let go of the last ones."""
        self._stash.clear()
