"""The supervisors of several nodes, over real sockets: they meet, compare, end together; what is wrong is named."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.errors import ExitCode, Problem, UserError
from sft.launch import member as member_module
from sft.launch.head import Head
from sft.launch.member import Member
from sft.launch.peers import settled, told
from sft.launch.sameness import differences, digest_of
from sft.launch.verdict import Verdict
from sft.rundir import RunDirectory

HAS = {"the kit": "abc", "torch": "2.13.0"}
HOST = socket.gethostname()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        number: int = probe.getsockname()[1]
    return number


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def head(run: RunDirectory, port: int) -> Iterator[Head]:
    made = Head(run, port, 2)
    yield made
    made.over(0)


def beside(act: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Do something on a thread, and keep what it returns or raises."""
    found: list[Any] = []

    def do() -> None:
        try:
            found.append(act())
        except UserError as error:
            found.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    return thread, found


def joined(run: RunDirectory, port: int, has: dict[str, str] = HAS, **how: Any) -> Member:
    member = Member(run, 1, "127.0.0.1", port)
    member.join(has, 10.0, **how)
    return member


def test_a_launch_from_hello_to_over(run: RunDirectory, port: int, head: Head, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    hashes = {str(model): digest_of(model)}

    def life() -> list[Any]:
        member = joined(run, port)
        compare = member.next()
        member.say({"say": "compared", "problems": differences(compare["hashes"])})
        go = member.next()
        member.say(told(Verdict("done", ExitCode.DONE)))
        return [compare["say"], go["environment"], member.next()]

    thread, found = beside(life)
    head.gather(HAS, 10.0)
    assert head.hosts == {0: HOST, 1: HOST}
    head.compare(hashes)
    head.go({"SFT_RESUME": "/checkpoint-4"})
    while not head.ended():
        time.sleep(0.05)
    assert head.failure() is None
    # torchrun's store meets the ranks at the same port while these connections stand.
    with socket.create_server(("", port)):
        head.over(75, "the end of the job")
    thread.join()
    assert found == [
        [
            "compare",
            {"SFT_RESUME": "/checkpoint-4"},
            {"say": "over", "exit_code": 75, "why": "the end of the job"},
        ]
    ]


def test_other_versions_are_told_by_node(run: RunDirectory, port: int, head: Head) -> None:
    thread, found = beside(lambda: joined(run, port, {**HAS, "torch": "2.12.0", "the kit": "abd"}))
    with pytest.raises(UserError) as caught:
        head.gather(HAS, 10.0)
    thread.join()
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    fix = "start every node from the same environment: launch.setup, or the same path to the kit"
    assert str(caught.value) == (
        f"the kit is abd there, and abc on machine 0\n  where: machine 1 ({HOST})\n  fix:   {fix}\n"
        f"torch is 2.12.0 there, and 2.13.0 on machine 0\n  where: machine 1 ({HOST})\n  fix:   {fix}"
    )
    head.over(int(caught.value.exit_code), "other versions")
    assert found[0].next()["exit_code"] == 4


def test_a_node_that_refuses_the_run_is_told(run: RunDirectory, port: int, head: Head) -> None:
    problem = Problem("GPUs are asked for and this machine shows none", "run.yaml:3", "run on a GPU node")
    thread, _ = beside(lambda: joined(run, port, problems=[problem]))
    with pytest.raises(UserError, match="this machine shows none"):
        head.gather(HAS, 10.0)
    thread.join()


def test_a_node_that_does_not_come_is_named(run: RunDirectory, head: Head) -> None:
    with pytest.raises(UserError) as caught:
        head.gather(HAS, 0.5)
    assert caught.value.exit_code == ExitCode.WORKER_LOST
    assert str(caught.value).startswith(
        f"machine 1 did not come to {HOST} within 0 s\n  where: there: 0 ({HOST})\n"
    )


def test_strangers_are_sent_away(run: RunDirectory, port: int, head: Head) -> None:
    strangers = []
    for words in (
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"say": "hello", "token": "guessed", "machine_rank": 1}\n',
        b"\xff" * 10,
    ):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.sendall(words)
        strangers.append(peer)
    thread, _ = beside(lambda: joined(run, port))
    head.gather(HAS, 10.0)
    thread.join()
    assert list(head.hosts) == [0, 1]
    for peer in strangers[:2]:
        peer.settimeout(5)
        assert peer.recv(1) == b""


@pytest.mark.parametrize(
    ("address", "cause", "fix"),
    [
        ("127.0.0.1", "nothing listens there", "see the log of machine 0"),
        ("no-such-host.invalid", "that name is not known here", "launch.main_process_ip"),
    ],
)
def test_a_machine_0_that_cannot_be_reached(
    run: RunDirectory, port: int, address: str, cause: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_module, "TRY_AGAIN_SECONDS", 0.1)
    with pytest.raises(UserError) as caught:
        Member(run, 1, address, port).join(HAS, 1.0)
    (problem,) = caught.value.problems
    assert problem.what.startswith(
        f"machine 1 ({HOST}) cannot reach machine 0 at {address}:{port} after 1 s: {cause}"
    )
    assert fix in str(problem.fix)
    assert caught.value.exit_code == ExitCode.WORKER_LOST


def test_a_machine_0_that_does_not_answer(run: RunDirectory) -> None:
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # from then on the kernel drops what comes, as a firewall does
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        with pytest.raises(UserError) as caught:
            Member(run, 1, "127.0.0.1", full.getsockname()[1]).join(HAS, 1.0)
    (problem,) = caught.value.problems
    assert problem.what.endswith("after 1 s: no answer: timed out")
    assert problem.fix is not None
    assert problem.fix.startswith(
        "a firewall between the nodes, or the wrong network: set launch.main_process_ip"
    )
    assert "launch.network_interface" in problem.fix


def test_a_node_that_does_not_see_the_run_directory(
    head: Head, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_module, "TOKEN_SECONDS", 0.2)
    monkeypatch.setattr(member_module, "TRY_AGAIN_SECONDS", 0.1)
    elsewhere = RunDirectory(tmp_path / "not mounted")
    with pytest.raises(UserError) as caught:
        joined(elsewhere, port)
    (problem,) = caught.value.problems
    assert problem.what == (
        f"machine 1 ({HOST}) does not see the run directory as machine 0 does: No such file or directory"
    )
    assert problem.where == str(elsewhere.nodes_token)


def test_what_is_missing_or_otherwise_on_a_node(
    run: RunDirectory, port: int, head: Head, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("one")
    hashes = {"/not/mounted": "0", str(tmp_path / "data"): "0"}

    def life() -> Member:
        member = joined(run, port)
        problems = differences(member.next()["hashes"], seconds=0.0)
        member.say({"say": "compared", "problems": problems})
        return member

    thread, _ = beside(life)
    head.gather(HAS, 10.0)
    with pytest.raises(UserError) as caught:
        head.compare(hashes)
    thread.join()
    assert [problem.what for problem in caught.value.problems] == [
        "/not/mounted is not there: it is not mounted, or lies on machine 0's own disk",
        f"{tmp_path / 'data'} holds something else than on machine 0",
    ]
    assert {problem.where for problem in caught.value.problems} == {f"machine 1 ({HOST})"}


def test_each_notices_when_the_other_is_gone(run: RunDirectory, port: int, head: Head) -> None:
    thread, found = beside(lambda: joined(run, port))
    head.gather(HAS, 10.0)
    thread.join()
    found[0].close()
    time.sleep(0.1)
    assert head.failure() == f"machine 1 ({HOST}) is gone"
    with pytest.raises(UserError, match=r"machine 1 .* was lost"):
        head.go({})


def test_a_member_ends_when_machine_0_is_gone(run: RunDirectory, port: int, head: Head) -> None:
    thread, found = beside(lambda: joined(run, port))
    head.gather(HAS, 10.0)
    thread.join()
    head.over(3, "out of memory")
    time.sleep(0.1)
    assert found[0].failure() == "out of memory"
    assert found[0].next() == {"say": "over", "exit_code": 3, "why": "out of memory"}
    assert found[0].next() == {"say": "over", "exit_code": 6, "why": f"machine 0 (127.0.0.1:{port}) is gone"}


LOST = Verdict(
    "failed", ExitCode.WORKER_LOST, Problem("rank 0 failed: the connection was closed"), is_consequence=True
)


def said(code: int, what: str, *, is_consequence: bool = False, at: float = 1.0) -> dict[str, Any]:
    verdict = Verdict("failed", code, Problem(what, "pid 3"), is_consequence=is_consequence)
    return {**told(verdict), "time": at}


@pytest.mark.parametrize(
    ("here", "others", "code", "what"),
    [
        (Verdict("finished", 0), {1: None}, 0, None),
        # What machine 0 has found itself is the end, unless it is what a lost connection looks like.
        (Verdict("failed", 5, Problem("loss is NaN")), {1: said(6, "killed")}, 5, "loss is NaN"),
        (LOST, {1: said(3, "out of memory")}, 3, "machine 1: out of memory"),
        (LOST, {1: said(6, "rank 2 was killed"), 2: said(6, "closed", is_consequence=True, at=0.5)}, 6, "machine 1: rank 2 was killed"),
        (LOST, {1: None, 2: said(6, "closed", is_consequence=True)}, 6, "machine 1 (b) was lost"),
        (LOST, {}, 6, "rank 0 failed: the connection was closed"),
        (LOST, {1: said(0, "")}, 6, "rank 0 failed: the connection was closed"),
    ],
)  # fmt: skip
def test_the_end_of_the_run_is_the_first_cause(
    here: Verdict, others: dict[int, Any], code: int, what: str | None
) -> None:
    found = settled(here, others, {0: "a", 1: "b", 2: "c"})
    assert (found.exit_code, found.problem.what if found.problem else None) == (code, what)


def test_a_port_that_is_taken_is_said(run: RunDirectory, port: int) -> None:
    with (
        socket.create_server(("", port)),
        pytest.raises(UserError, match=f"cannot meet at port {port} of {HOST}"),
    ):
        Head(run, port, 2)
