"""One connection between two supervisors: a JSON object a line, read without waiting."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

Message = dict[str, Any]
LONGEST_BYTES = 4 << 20
"""A peer that sends more without a line's end is none of ours."""
IDLE_SECONDS, PROBE_SECONDS, PROBES = 10, 5, 3
"""A peer whose machine has died is noticed after 25 s of silence."""
SEND_SECONDS = 10.0


class Link:
    """A connected socket.

    Attributes:
        closed: whether the other side has gone.
        hello: what it said first, and whether that was taken.
    """

    def __init__(self, peer: socket.socket) -> None:
        self.closed = False
        self.greeted = False
        self.hello: Message = {}
        self._read = b""
        self._socket = peer
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(AttributeError, OSError):  # not every system has all of them
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
            peer.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (IDLE_SECONDS + PROBES * PROBE_SECONDS)
            )

    def send(self, message: Message) -> None:
        """Send one message; a peer that takes none is gone."""
        if self.closed:
            return
        try:
            self._socket.settimeout(SEND_SECONDS)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.close()

    def poll(self) -> list[Message]:
        """Return the messages that have come. What is no message closes the connection."""
        if not self.closed:
            self._take()
        *lines, self._read = self._read.split(b"\n")
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
                if not isinstance(message, dict) or not isinstance(message.get("say"), str):
                    raise ValueError(line)
            except ValueError:
                self.close()
                break
            messages.append(message)
        if len(self._read) > LONGEST_BYTES:
            self.close()
        return messages

    def close(self) -> None:
        """Part."""
        self.closed = True
        self._socket.close()

    def _take(self) -> None:
        self._socket.setblocking(False)
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            self._read += data
            if len(self._read) > LONGEST_BYTES:
                return


def own_addresses() -> str:
    """Say which interfaces this machine has, with their addresses."""
    import psutil  # type: ignore[import-untyped]

    found = [
        f"{name} {address.address}"
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET and name != "lo"
    ]
    return ", ".join(found) or "none but the loopback"
