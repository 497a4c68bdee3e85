"""`sft demo`: the real server over the loopback, asked as a browser asks it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sft.cli.main import main
from tests.export.adapters import write_adapter
from tests.export.taught import CHATS, answer
from tests.training.launching import SFT

WITNESS = """
import os, socket

LOG = os.environ["SFT_TEST_NETWORK"]


def note(what):
    with open(LOG, "a") as file:
        file.write(f"{what}\\n")


look_up, connect = socket.getaddrinfo, socket.socket.connect


def getaddrinfo(host, *more, **named):
    note(host)
    return look_up(host, *more, **named)


class Witness(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            note(address[0])
        return super().connect(address)

    def connect_ex(self, address):
        note(address[0])
        return super().connect_ex(address)


socket.getaddrinfo, socket.socket = getaddrinfo, Witness
"""


@dataclass
class Served:
    """A demo that is served, and the addresses that its process has looked up or connected to."""

    address: str
    log: Path
    process: Any


@pytest.fixture(scope="module")
def served(full_run: Path, lora_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    import os

    place = tmp_path_factory.mktemp("demo")
    (place / "sitecustomize.py").write_text(WITNESS)
    other = write_adapter(full_run, place / "other", std=0.2)
    log = place / "network"
    log.write_text("")
    process = subprocess.Popen(
        [*SFT, "demo", str(lora_run), "--adapter", str(other), "--max-new-tokens", "40"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(place),
            "SFT_TEST_NETWORK": str(log),
            "GRADIO_ANALYTICS_ENABLED": "True",
        },
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    yield Served(address, log, process)
    process.kill()
    process.wait()


def client_of(served: Served) -> Any:
    from gradio_client import Client

    return Client(served.address, verbose=False, analytics_enabled=False)


def ask(client: Any, question: str, chosen: list[str], **changed: Any) -> Any:
    settings = {
        "system": "",
        "tokens": 40,
        "temperature": 0,
        "top_p": 1,
        "top_k": 0,
        "penalty": 1,
        "seed": "",
    } | changed
    return client.submit(question, chosen, *settings.values(), api_name="/ask")


def said(screen: Any) -> list[str]:
    """Return what stands on a screen, whatever form gradio gives a message."""
    found = []
    for message in screen:
        content = message["content"]
        found.append(content if isinstance(content, str) else "".join(part["text"] for part in content))
    return found


def test_base_and_adapters_answer_side_by_side_as_they_write(served: Served) -> None:
    assert served.address.startswith("http://127.0.0.1:")
    client = client_of(served)
    question = CHATS[1]["messages"][0]["content"]
    job = ask(client, question, ["base", "out", "other"])
    last = job.result(timeout=60)
    box, *screens, status = last
    base, out, other = map(said, screens)
    assert box == ""
    assert [screen[0] for screen in (base, out, other)] == [question] * 3
    assert out[1] == answer(CHATS[1])
    assert len({base[1], out[1], other[1]}) == 3
    assert [part.split(":")[0] for part in status.split("; ")] == ["base", "out", "other"]
    steps = [said(one[2]) for one in job.outputs()]
    partial = {one[1] for one in steps if len(one) == 2}
    assert len(partial) > 3, "the answer came piece by piece"
    assert all(answer(CHATS[1]).startswith(one) for one in partial)

    again = ask(client, question, ["out"]).result(timeout=60)
    assert len(said(again[2])) == 4, "the conversation goes on"
    assert len(said(again[1])) == 2, "with those alone who were chosen"
    cleared = client.predict(api_name="/clear")
    assert [list(screen) for screen in cleared[:3]] == [[], [], []]


def test_settings_are_heeded_and_a_bad_one_is_told(served: Served) -> None:
    client = client_of(served)
    question = CHATS[0]["messages"][0]["content"]
    short = ask(client, question, ["out"], tokens=2).result(timeout=60)
    assert answer(CHATS[0]).startswith(said(short[2])[1])
    assert short[-1].startswith("out: 2 tokens in ")
    assert short[-1].endswith(", cut at max_new_tokens")
    wrong = ask(client, question, ["out"], seed="soon").result(timeout=60)
    assert wrong[-1].startswith("seed cannot be 'soon'")
    assert ask(client, " ", ["out"]).result(timeout=60)[-1] == "ask something, and choose who answers"


def test_no_other_machine_is_asked(served: Served) -> None:
    """After all that the tests before have done; also of the page, which would have a browser ask."""
    from urllib.request import urlopen

    page = urlopen(served.address, timeout=20).read().decode()
    assert "fonts.googleapis.com" not in page
    assert "cdnjs" not in page
    seen = set(served.log.read_text().split()) - {"None"}
    assert seen <= {"127.0.0.1", "localhost", "::1", "0.0.0.0"}, seen
    assert seen, "the witness was there"


def test_a_taken_port_is_told(served: Served, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = served.address.rstrip("/").rpartition(":")[2]
    assert main(["demo", str(tiny_model), "--port", port]) == 4
    assert capsys.readouterr().err.startswith("the page cannot be served: ")


def test_without_gradio_the_command_that_brings_it_is_told(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", str(tiny_model)]) == 4
    captured = capsys.readouterr().err
    assert captured.startswith("the package gradio is not installed\n")
    assert '"sft[demo]"' in captured


def test_ctrl_c_ends_it_in_order(served: Served) -> None:
    import signal

    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(20) == 0
