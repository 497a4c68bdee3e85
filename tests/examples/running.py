"""Run the scripts of examples/: by the commands that stand on their top, and within this process."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny
from tests.training.here import forget_accelerate

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
TEST_ROWS = 15
"""How many of the held-out chats the scripts look at."""


def docstring(name: str) -> str:
    """Return what stands on top of a script."""
    found = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")), clean=False)
    assert found is not None
    return found


def commands(name: str) -> list[str]:
    """Return the commands that stand on top of a script: one process, then two."""
    return [line.strip() for line in docstring(name).splitlines() if line.startswith("    ")]


def furnish(directory: Path, model: Path) -> Path:
    """Make a directory as the quickstart leaves it, with a tiny model and short chats in place of its own."""
    for name in ("examples", "accelerate_configs"):
        (directory / name).symlink_to(REPOSITORY / name)
    (directory / "quickstart" / "data").mkdir(parents=True)
    (directory / "quickstart" / "base").symlink_to(model)
    # 40 to train on: whole steps of 8, since Trainer makes a short one of what is left of an epoch.
    rows = tiny.chats(60)
    tiny.write_rows(directory / "quickstart" / "data" / "train.jsonl", rows[:40])
    tiny.write_rows(directory / "quickstart" / "data" / "test.jsonl", rows[40:])
    return directory


def shell(place: Path) -> dict[str, str]:
    """Return the environment of a person who has activated .venv there."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HF_DATASETS_CACHE": str(place / ".datasets")}


def run(place: Path, command: str, *words: str) -> str:
    """Run a command in a directory, see it end well, and return what it printed."""
    line = " ".join([command, *words])
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=place,
        env=shell(place),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr[-5000:]}"
    return done.stdout


def run_here(
    name: str, *words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run a script as `python examples/NAME.py WORDS` would, without a process of its own, and return its output.

    Raises:
        SystemExit: as the script does.
    """
    import torch

    # As a launched process has it; otherwise sums are taken in another order.
    torch.set_num_threads(1)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path.cwd() / ".datasets")
    capsys.readouterr()
    forget_accelerate()
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        forget_accelerate()
    return capsys.readouterr().out


@dataclass(frozen=True)
class Curve:
    """What a loop prints: of each step loss, norm of the gradients and learning rate; the held-out loss and accuracy."""

    losses: list[float]
    norms: list[float]
    rates: list[float]
    held_out: list[float]


STEP = re.compile(r"^step \d+/\d+  loss (\S+)  grad_norm (\S+)  lr (\S+)$", re.MULTILINE)
HELD_OUT = re.compile(r"^held out  loss (\S+)  accuracy (\S+)", re.MULTILINE)


def curve(printed: str) -> Curve:
    """Read what a loop printed."""
    rows = [tuple(map(float, row)) for row in STEP.findall(printed)]
    (held_out,) = HELD_OUT.findall(printed)
    losses, norms, rates = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return Curve(losses, norms, rates, [float(value) for value in held_out])
