"""Online or offline is decided before wandb is started."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.report import network
from sft.report.network import Offline, wandb_offline

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def listener() -> Iterator[int]:
    """A port on the loopback that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """A port on the loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("mode", ["offline", "disabled", "dryrun"])
def test_the_mode_is_respected(mode: str) -> None:
    assert wandb_offline({"WANDB_MODE": mode, "WANDB_API_KEY": KEY}) == Offline(
        f"WANDB_MODE={mode}", "WANDB_MODE=online"
    )


def test_without_a_key_it_is_offline(tmp_path: Path, listener: int) -> None:
    found = wandb_offline({"HOME": str(tmp_path), "WANDB_BASE_URL": f"http://127.0.0.1:{listener}"})
    assert found == Offline(f"no key for 127.0.0.1:{listener}", "run `wandb login`, or set WANDB_API_KEY")


@pytest.mark.parametrize("place", ["environment", "netrc", "NETRC", "settings"])
def test_a_key_is_found_where_wandb_finds_it(place: str, tmp_path: Path, listener: int) -> None:
    environment = {"HOME": str(tmp_path), "WANDB_BASE_URL": f"http://127.0.0.1:{listener}"}
    entry = f"machine 127.0.0.1:{listener}\n  login user\n  password {KEY}\n"
    if place == "environment":
        environment["WANDB_API_KEY"] = KEY
    elif place == "netrc":
        (tmp_path / ".netrc").write_text(entry)
    elif place == "NETRC":
        (tmp_path / "elsewhere").write_text(entry)
        environment["NETRC"] = str(tmp_path / "elsewhere")
    else:
        (tmp_path / ".config" / "wandb").mkdir(parents=True)
        (tmp_path / ".config" / "wandb" / "settings").write_text(f"[default]\napi_key = {KEY}\n")
    assert wandb_offline(environment) is None


def test_a_server_that_does_not_answer_is_named(closed_port: int) -> None:
    found = wandb_offline({"WANDB_API_KEY": KEY}, f"http://127.0.0.1:{closed_port}")
    assert found == Offline(f"no route to 127.0.0.1:{closed_port}", "run this where there is a network")


def test_the_proxy_is_what_must_answer(listener: int, closed_port: int) -> None:
    environment = {"WANDB_API_KEY": KEY, "HTTPS_PROXY": f"http://127.0.0.1:{listener}"}
    assert wandb_offline(environment, "https://wandb.invalid") is None
    environment["HTTPS_PROXY"] = f"http://127.0.0.1:{closed_port}"
    assert wandb_offline(environment, "https://wandb.invalid") == Offline(
        f"no route to the proxy 127.0.0.1:{closed_port}", "check HTTPS_PROXY, or run this elsewhere"
    )


def test_no_proxy_and_this_machine_are_not_proxied(listener: int, closed_port: int) -> None:
    environment = {"WANDB_API_KEY": KEY, "http_proxy": f"http://127.0.0.1:{closed_port}"}
    assert wandb_offline(environment, f"http://127.0.0.1:{listener}") is None
    environment = {
        "WANDB_API_KEY": KEY,
        "https_proxy": f"http://127.0.0.1:{listener}",
        "no_proxy": "wandb.invalid",
    }
    assert wandb_offline(environment, "https://wandb.invalid") == Offline(
        "no route to wandb.invalid:443", "run this where there is a network"
    )


def test_a_name_service_that_hangs_costs_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*arguments: object, **options: object) -> socket.socket:
        time.sleep(20)
        raise OSError

    monkeypatch.setattr(network.socket, "create_connection", hang)
    monkeypatch.setattr(network, "CONNECT_SECONDS", 0.2)
    before = time.monotonic()
    found = wandb_offline({"WANDB_API_KEY": KEY}, "https://wandb.invalid")
    assert found == Offline("no route to wandb.invalid:443", "run this where there is a network")
    assert time.monotonic() - before < 2
