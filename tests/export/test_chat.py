"""`sft chat` as it is used: a pipe, and a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.cli.main import main
from tests.export.taught import CHATS, answer
from tests.training.launching import SFT


def question_of(number: int) -> str:
    return CHATS[number]["messages"][0]["content"]


class Terminal:
    """`sft chat` on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.master, end = pty.openpty()
        self.process = subprocess.Popen(
            [*SFT, "chat", *words],
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "400"},
        )
        os.close(end)
        self.seen = ""

    def until(self, text: str, seconds: float = 90, *, interrupting: bool = False) -> str:
        """Read until a text is there, and return what came with it.

        Args:
            interrupting: press Ctrl-C until then: one that comes just before the terminal is read is heard with the next key.
        """
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if interrupting:
                self.process.send_signal(signal.SIGINT)
                time.sleep(0.5)
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.master, 4096).decode().replace("\r", "")
                except OSError:
                    pytest.fail(f"it ended: {self.seen}")
        found, _, self.seen = self.seen.partition(text)
        return found

    def say(self, line: str) -> None:
        os.write(self.master, line.encode() + b"\n")


@pytest.fixture
def terminal(lora_run: Path) -> Iterator[Terminal]:
    found = Terminal(str(lora_run), "--max-new-tokens", "100")
    yield found
    found.process.kill()
    found.process.wait()
    os.close(found.master)


def test_from_a_pipe_the_answer_alone_goes_to_stdout(lora_run: Path) -> None:
    done = subprocess.run(
        [*SFT, "chat", str(lora_run)],
        input=question_of(2) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, answer(CHATS[2]) + "\n"), done.stderr
    assert done.stderr == ""


def test_in_a_terminal_one_talks_on_and_changes_who_answers(terminal: Terminal) -> None:
    assert "with out; /help lists the commands" in terminal.until("out> ")
    terminal.say(question_of(1))
    terminal.until(answer(CHATS[1]))
    terminal.until("out> ")
    terminal.say("/base")
    assert "base answers from here on" in terminal.until("base> ")
    terminal.say("/set temperature 0.7")
    assert "temperature 0.7" in terminal.until("base> ")
    terminal.say("/set temperature 0\n/reset\n/adapter nobody")
    assert "there is no adapter 'nobody'" in terminal.until("one of: out\n")
    terminal.until("base> ")
    # Ctrl-C at the prompt leaves nothing; in an answer it breaks that off.
    terminal.until("(/quit or Ctrl-D leaves)", interrupting=True)
    terminal.say("/adapter out")
    terminal.until("out> ")
    terminal.say("/quit")
    assert terminal.process.wait(20) == 0


def test_nothing_on_a_pipe_is_told(
    lora_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO("  \n"))
    assert main(["chat", str(lora_run)]) == 2
    assert capsys.readouterr().err.startswith("nothing was asked: standard input is empty\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--temperature", "hot"], "temperature cannot be 'hot'\n  where: --temperature\n"),
        (["--max-new-tokens", "0"], "max_new_tokens cannot be '0'\n  where: --max-new-tokens\n"),
        (["--adapter", "/none"], "there is no directory /none\n  where: --adapter\n"),
    ],
)
def test_bad_words_are_told_before_a_model_is_loaded(
    words: list[str],
    told: str,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi"))
    assert main(["chat", str(tiny_model), *words]) == 2
    assert capsys.readouterr().err.startswith(told)
