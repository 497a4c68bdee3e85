"""Run one program of a stage: its output goes to a log, a person sees that it is alive.

Used before anything is installed: the standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sft.errors import ExitCode, UserError

SECONDS_BETWEEN_LINES = 15.0  # in a log file; a terminal has one live line
TAIL_LINES = 12


def say(text: str) -> None:
    """Tell a person something, at once."""
    print(text, file=sys.stderr, flush=True)


def run_logged(
    command: Sequence[str],
    log: Path,
    *,
    what: str,
    fix: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `command` to its end, with stdout and stderr in `log`.

    Raises:
        UserError: it failed. The end of its log has been shown.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment} if environment else None,
        )
        try:
            _watch(process, log)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        for line in _lines(log)[-TAIL_LINES:]:
            say(f"      | {line}")
        raise UserError(what, str(log), fix, exit_code=ExitCode.ENVIRONMENT)


def _watch(process: subprocess.Popen[bytes], log: Path) -> None:
    live = sys.stderr.isatty()
    start = time.monotonic()
    next_line = SECONDS_BETWEEN_LINES
    while True:
        try:
            process.wait(timeout=0.5)
            break
        except subprocess.TimeoutExpired:
            pass
        seconds = time.monotonic() - start
        if live:
            _rewrite(f"      {seconds:4.0f} s  {_last(log)}")
        elif seconds >= next_line:
            say(f"      {seconds:4.0f} s  {_last(log)}"[:110])
            next_line += SECONDS_BETWEEN_LINES
    if live:
        _rewrite("")


def _rewrite(text: str) -> None:
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write("\r\x1b[2K" + text[:width])
    sys.stderr.flush()


def _lines(log: Path) -> list[str]:
    """Read the lines of a log; a progress bar's last state counts as a line."""
    text = log.read_bytes()[-20_000:].decode("utf-8", errors="replace").replace("\r", "\n")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _last(log: Path) -> str:
    lines = [line.strip() for line in _lines(log) if not line.startswith("WARNING")]
    return lines[-1] if lines else ""
