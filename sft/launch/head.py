"""Machine 0 among the supervisors of a run on several nodes. They speak over TCP, one JSON object a line.

They meet at the very address and port at which the ranks will, so that what stands between two nodes (a firewall, a wrong
interface) is found before anything is loaded. The connections stay for as long as the launch does:

    member -> head   hello     what this node has: the kit, the libraries, its host
    head -> member   compare   paths, and the hash of what lies there on machine 0
    member -> head   compared  what is otherwise here
    head -> member   go        start the ranks, with these variables
    member -> head   ended     how this node's ranks ended
    head -> member   over      the exit code of the run, and why

A connection that ends before `over` is a node that was lost. A token in the run directory shows that both see the same one.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from sft.errors import ExitCode, Problem, UserError
from sft.files import write_whole
from sft.launch.link import Link, Message
from sft.launch.peers import settled
from sft.launch.stop import StopNow
from sft.launch.verdict import Verdict
from sft.plan.arrangement import DEFAULT_PORT
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

POLL_SECONDS = 0.1
COMPARE_SECONDS = 120.0
LAST_WORDS_SECONDS = 30.0
LATE_SECONDS = 15.0
"""How long those are waited for that come to a run which has failed already."""


class Head:
    """Machine 0's end: listens until every other node has come.

    Raises:
        UserError: the port is taken.
    """

    def __init__(self, run: RunDirectory, port: int, nodes: int) -> None:
        self._nodes = nodes
        self.is_over = False
        self._links: dict[int, Link] = {}
        self._ended: dict[int, Message | None] = {}
        self._strangers: list[Link] = []
        self.hosts: dict[int, str] = {0: socket.gethostname()}
        self._token = secrets.token_hex(16)
        write_whole(run.nodes_token, self._token + "\n")
        try:
            self._listener = socket.create_server(("", port), backlog=nodes + 8)
        except OSError as error:
            raise UserError(
                f"the nodes cannot meet at port {port} of {socket.gethostname()}: {error.strerror}",
                "main_process_port",
                "choose another port: another run on this node has it",
                exit_code=ExitCode.ENVIRONMENT,
            ) from None
        self._listener.setblocking(False)

    def gather(self, mine: Mapping[str, Any], seconds: float) -> None:
        """Wait until every node has said hello, and hold what they have against what this one has.

        Raises:
            UserError: a node has not come, refuses the run, or has another kit or other libraries.
        """
        self._accept(seconds)
        self._listener.close()
        missing = sorted(set(range(1, self._nodes)) - set(self._links))
        if missing:
            come = ", ".join(f"{rank} ({host})" for rank, host in sorted(self.hosts.items()))
            raise UserError(
                f"{_machines(missing)} did not come to {socket.gethostname()} within {seconds:.0f} s",
                f"there: {come}",
                "see the logs of those nodes; a firewall between the nodes, or a node that does not mount what the"
                " run needs, keeps them away",
                exit_code=ExitCode.WORKER_LOST,
            )
        problems = []
        for rank, link in sorted(self._links.items()):
            problems += _differences(mine, link.hello["has"], f"machine {rank} ({self.hosts[rank]})")
            problems += [Problem(*words) for words in link.hello["problems"]]
        if problems:
            raise UserError.of(problems, exit_code=ExitCode.ENVIRONMENT)

    def compare(self, hashes: Mapping[str, str]) -> None:
        """Have every node hold what lies at these paths against their hashes.

        Raises:
            UserError: something is missing, or otherwise, on a node.
        """
        self.tell({"say": "compare", "hashes": dict(hashes)})
        end, answers = time.monotonic() + COMPARE_SECONDS, dict[int, Message]()
        while len(answers) < len(self._links):
            for rank, link in self._links.items():
                for message in link.poll():
                    if message["say"] == "compared":
                        answers[rank] = message
                    elif message["say"] == "ended":
                        raise StopNow  # it was asked to stop
                if link.closed and rank not in answers:
                    raise _lost(rank, self.hosts[rank])
            if time.monotonic() > end:
                late = sorted(set(self._links) - set(answers))
                raise UserError(
                    f"{_machines(late)} did not read the model and the data within {COMPARE_SECONDS:.0f} s",
                    "a file system that hangs there, most likely",
                    "look at that node, or exclude it: launch.slurm.exclude",
                    exit_code=ExitCode.WORKER_LOST,
                )
            time.sleep(POLL_SECONDS)
        problems = [
            Problem(what, f"machine {rank} ({self.hosts[rank]})", fix)
            for rank, message in sorted(answers.items())
            for what, fix in message["problems"]
        ]
        if problems:
            raise UserError.of(problems, exit_code=ExitCode.ENVIRONMENT)

    def go(self, environment: Mapping[str, str]) -> None:
        """Have every node start its ranks.

        Raises:
            UserError: a node has been lost since they met.
        """
        for rank, message in self.ended().items():
            if message is None:
                raise _lost(rank, self.hosts[rank])
        self._ended.clear()
        self.tell({"say": "go", "environment": dict(environment)})

    def ended(self) -> dict[int, Message | None]:
        """Return what each node that has ended since `go` said of it; None for one that was lost."""
        for rank, link in self._links.items():
            for message in link.poll():
                if message["say"] == "ended":
                    self._ended[rank] = message
            if link.closed:
                self._ended.setdefault(rank, None)
        return self._ended

    def failure(self) -> str | None:
        """Say which node has ended otherwise than in order, if one has."""
        for rank, message in sorted(self.ended().items()):
            if message is None:
                return f"machine {rank} ({self.hosts[rank]}) is gone"
            if message["exit_code"] not in (ExitCode.DONE, ExitCode.STOPPED):
                return (
                    f"machine {rank} ({self.hosts[rank]}) has failed: {message.get('what') or 'see its log'}"
                )
        return None

    def settle(self, verdict: Verdict) -> Verdict:
        """Return the end of the run, where machine 0's ranks ended so: the cause may lie on another node."""
        if verdict.exit_code != ExitCode.WORKER_LOST:
            return verdict
        end = time.monotonic() + LAST_WORDS_SECONDS
        while len(self.ended()) < len(self._links) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return settled(verdict, self.ended(), self.hosts)

    def over(self, code: int, why: str = "", *, seconds: float = 0.0) -> None:
        """Tell every node how the run ended; those too that come within so many seconds."""
        if seconds and self._listener.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._accept(seconds)
        self.is_over = True
        self.tell({"say": "over", "exit_code": code, "why": why})
        for link in self._links.values():
            link.close()
        self._listener.close()

    def tell(self, message: Message) -> None:
        """Send a message to every node; one that is gone is found when it is listened to."""
        for link in self._links.values():
            link.send(message)

    def _accept(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while len(self._links) < self._nodes - 1 and time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                peer, _ = self._listener.accept()
                self._strangers.append(Link(peer))
            for link in list(self._strangers):
                for message in link.poll():
                    self._greet(link, message)
                if link.closed or link.greeted:
                    self._strangers.remove(link)
            time.sleep(POLL_SECONDS)

    def _greet(self, link: Link, message: Message) -> None:
        """Take a node in that knows the token; anything else that speaks here is none of the run's."""
        rank = message.get("machine_rank")
        known = message.get("say") == "hello" and message.get("token") == self._token
        if not known or not isinstance(rank, int) or not 0 < rank < self._nodes or rank in self._links:
            link.close()
            return
        link.hello, link.greeted = message, True
        self._links[rank], self.hosts[rank] = link, str(message.get("host"))


@contextlib.contextmanager
def meeting(plan: Plan, run: RunDirectory) -> Iterator[Head | None]:
    """Be machine 0 for as long as the block runs; however it ends, the others are told. None on a single machine."""
    if plan.nodes == 1:
        yield None
        return
    head = Head(run, plan.main_process_port or DEFAULT_PORT, plan.nodes)
    try:
        yield head
    except UserError as error:
        head.over(int(error.exit_code), error.problems[0].what, seconds=LATE_SECONDS)
        raise
    finally:
        if not head.is_over:
            head.over(int(ExitCode.STOPPED), "stopped before the training began")


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> list[Problem]:
    """Tell each thing of which a node has another version."""
    found = []
    for name in sorted({*mine, *theirs}):
        ours, other = mine.get(name, "absent"), theirs.get(name, "absent")
        if ours != other:
            fix = "start every node from the same environment: launch.setup, or the same path to the kit"
            found.append(Problem(f"{name} is {other} there, and {ours} on machine 0", where, fix))
    return found


def _lost(rank: int, host: str) -> UserError:
    return UserError(
        f"machine {rank} ({host}) was lost",
        host,
        "see its log; the run continues from its last checkpoint",
        exit_code=ExitCode.WORKER_LOST,
    )


def _machines(ranks: list[int]) -> str:
    return f"machine{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
