"""A supervisor that is not machine 0's: it comes to that one, and does as it says. `sft.launch.head` has what is spoken."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from sft.errors import ExitCode, Problem, UserError
from sft.launch.link import Link, Message, own_addresses
from sft.rundir import RunDirectory

POLL_SECONDS = 0.1
TRY_AGAIN_SECONDS = 0.5
TOKEN_SECONDS = 60.0
"""How long a file that machine 0 has just written may take to be seen over a network file system."""


class Member:
    """The connection to machine 0."""

    def __init__(self, run: RunDirectory, machine_rank: int, address: str, port: int) -> None:
        self._run, self._rank = run, machine_rank
        self.head = f"{address}:{port}"
        self._address, self._port = address, port
        self._link: Link | None = None
        self._waiting: list[Message] = []

    def join(self, mine: Mapping[str, Any], seconds: float, problems: list[Problem] | None = None) -> None:
        """Reach machine 0 and say what this node has, or why it refuses the run.

        Raises:
            UserError: machine 0 cannot be reached, or this node does not see its run directory.
        """
        self._link = Link(self._connected(seconds))
        self._link.send(
            {
                "say": "hello",
                "token": self._read_token(),
                "machine_rank": self._rank,
                "host": socket.gethostname(),
                "has": dict(mine),
                "problems": [[item.what, item.where, item.fix] for item in problems or []],
            }
        )

    def next(self) -> Message:
        """Wait for machine 0's next word. One that is gone says `over`, with the code of a lost node."""
        while True:
            if message := self.heard():
                return message
            time.sleep(POLL_SECONDS)

    def last(self, seconds: float) -> Message:
        """Wait for machine 0 to say that the run is over, but not for ever."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            message = self.heard()
            if message is not None and message["say"] == "over":
                return message
            time.sleep(POLL_SECONDS)
        return {"say": "over", "exit_code": int(ExitCode.STOPPED), "why": ""}

    def heard(self) -> Message | None:
        """Return machine 0's next word, if it has spoken."""
        assert self._link is not None
        self._waiting += self._link.poll()
        if self._waiting:
            return self._waiting.pop(0)
        if self._link.closed:
            return {
                "say": "over",
                "exit_code": int(ExitCode.WORKER_LOST),
                "why": f"machine 0 ({self.head}) is gone",
            }
        return None

    def failure(self) -> str | None:
        """Say why this node's ranks are to end, if machine 0 has said so or is gone."""
        message = self.heard()
        if message is None:
            return None
        self._waiting.insert(0, message)
        return str(message.get("why") or "machine 0 has ended the run") if message["say"] == "over" else None

    def say(self, message: Message) -> None:
        """Tell machine 0."""
        assert self._link is not None
        self._link.send(message)

    def close(self) -> None:
        """Part."""
        if self._link is not None:
            self._link.close()

    def _connected(self, seconds: float) -> socket.socket:
        end = time.monotonic() + seconds
        while True:
            try:
                return socket.create_connection(
                    (self._address, self._port), timeout=max(1.0, end - time.monotonic())
                )
            except OSError as error:
                if time.monotonic() + TRY_AGAIN_SECONDS > end:
                    raise self._unreachable(error, seconds) from None
            time.sleep(TRY_AGAIN_SECONDS)

    def _unreachable(self, error: OSError, seconds: float) -> UserError:
        if isinstance(error, socket.gaierror):
            why, fix = "that name is not known here", "name an address of machine 0: launch.main_process_ip"
        elif isinstance(error, ConnectionRefusedError):
            why = "nothing listens there"
            fix = (
                "see the log of machine 0, which has not started or has ended; if it runs, the name leads elsewhere: set"
                " launch.main_process_ip to its address on the network between the nodes"
            )
        else:
            why = "no answer: " + (error.strerror or "timed out")
            fix = (
                "a firewall between the nodes, or the wrong network: set launch.main_process_ip to an address of machine 0"
                f" that this node reaches (it has {own_addresses()}), and launch.network_interface to that network's"
            )
        return UserError(
            f"machine {self._rank} ({socket.gethostname()}) cannot reach machine 0 at {self.head} after {seconds:.0f} s: {why}",
            "launch.main_process_ip, launch.main_process_port",
            fix,
            exit_code=ExitCode.WORKER_LOST,
        )

    def _read_token(self) -> str:
        end = time.monotonic() + TOKEN_SECONDS
        while True:
            try:
                return self._run.nodes_token.read_text(encoding="utf-8").strip()
            except OSError as error:
                if time.monotonic() > end or not isinstance(error, FileNotFoundError):
                    raise UserError(
                        f"machine {self._rank} ({socket.gethostname()}) does not see the run directory as machine 0 does:"
                        f" {error.strerror}",
                        str(self._run.nodes_token),
                        "set output_dir to a file system that every node mounts",
                        exit_code=ExitCode.ENVIRONMENT,
                    ) from None
            time.sleep(TRY_AGAIN_SECONDS)
