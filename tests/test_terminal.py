"""Lines are broken and coloured for a terminal, and for nothing else."""

from __future__ import annotations

import io

import pytest

from sft.terminal import show, wrapped

LINE = "disk: checkpoints of 919.9 GiB each, all kept + the model 131.4 GiB = at least 1,971.2 GiB on /work"
FIX = "  fix:   use 48 or 72 rows, or another number of GPUs, or leave gradient_accumulation_steps out"
TABLE = "  weights" + " " * 90 + "1 GiB"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_lines_are_broken_where_the_terminal_ends_and_tables_are_not() -> None:
    assert [*wrapped([LINE, FIX, TABLE])] == [
        "disk: checkpoints of 919.9 GiB each, all kept + the model",
        "      131.4 GiB = at least 1,971.2 GiB on /work",
        "  fix:   use 48 or 72 rows, or another number of GPUs, or",
        "         leave gradient_accumulation_steps out",
        TABLE,
    ]


def test_a_terminal_gets_colour_unless_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    show(["it fits"], terminal, "green")
    assert terminal.getvalue() == "\x1b[32mit fits\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    show([LINE], plain, "green")
    assert plain.getvalue().splitlines() == [*wrapped([LINE])]


def test_a_file_gets_every_line_whole_and_without_colour() -> None:
    file = io.StringIO()
    show([LINE], file, "bold red")
    assert file.getvalue() == LINE + "\n"
