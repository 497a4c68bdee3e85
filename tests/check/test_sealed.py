"""A sealed process reaches nothing, says what it tried, and hands back what it found."""

from __future__ import annotations

import os
import socket

import pytest

from sft.check import sealed
from sft.errors import ExitCode, UserError

HERE = "tests.check.test_sealed"


def try_to_connect(port: int) -> str:
    """Connect as a library would that goes on without a network."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5)
    except OSError as error:
        return str(error.strerror)
    return "connected"


def look_up(name: str) -> None:
    with pytest.raises(OSError, match="there is no network here"):
        socket.getaddrinfo(name, 443)


def say_environment() -> list[str | None]:
    print("what a library prints")
    return [
        os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    ]


def refuse() -> None:
    raise UserError("no", "here", "mend it", exit_code=ExitCode.ENVIRONMENT)


def fail() -> None:
    raise KeyError("a bug")


def test_no_address_is_reached_and_every_try_is_noted() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        tried = sealed.call(f"{HERE}:try_to_connect", {"port": port})
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert tried.value == "there is no network here: 127.0.0.1 was asked for"
    assert tried.attempts == ("127.0.0.1",)
    assert sealed.call(f"{HERE}:look_up", {"name": "huggingface.co"}).attempts == ("huggingface.co",)


def test_the_libraries_are_told_and_stdout_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert sealed.call(f"{HERE}:say_environment", {}) == sealed.Sealed(["1", "1", "1"], ())
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "what a library prints" in printed.err


def test_problems_come_through_and_a_bug_keeps_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as raised:
        sealed.call(f"{HERE}:refuse", {})
    assert (str(raised.value), raised.value.exit_code) == ("no\n  where: here\n  fix:   mend it", 4)
    with pytest.raises(RuntimeError, match="ended with 1"):
        sealed.call(f"{HERE}:fail", {})
    assert "KeyError: 'a bug'" in capfd.readouterr().err
