"""docs/trying.md as a person would follow it: every command as it stands there, on the tiny model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sft.export.conversation import COMMANDS
from sft.export.generation import LIMITS
from tests import tiny

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "trying.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language, as they follow one another."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [block.strip() for found, block in fences if found == language]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trying")
    (place / "recipes").symlink_to(REPOSITORY / "recipes")
    rows = tiny.chats(60)
    (place / "data").mkdir()
    tiny.write_rows(place / "data" / "train.jsonl", rows[:52])
    tiny.write_rows(place / "data" / "test.jsonl", rows[52:])
    return place


def environment(place: Path, model: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MODEL": str(model), "DATA": str(place / "data")}


@pytest.fixture(scope="module")
def printed(place: Path, tiny_model: Path) -> list[tuple[str, str]]:
    """Run the commands of the page, and return what each block of them printed."""
    outputs = []
    for block in blocks("bash"):
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{block}"],
            cwd=place,
            env=environment(place, tiny_model),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr[-4000:]}"
        outputs.append((done.stdout, done.stderr))
    return outputs


def test_the_commands_of_the_page_run_as_written(place: Path, printed: list[tuple[str, str]]) -> None:
    launched, chatted, table, own = printed

    # The launch has evaluated after its training, shown it, and left the run's directory alone on stdout.
    assert launched[0] == f"{place}/runs/mine\n"
    assert re.search(r"^  rouge_l  ", launched[1], re.MULTILINE)
    assert json.loads((place / "runs/mine/_sft/outcome.json").read_text()) == {
        "status": "finished", "exit_code": 0, "step": 4,
    }  # fmt: skip
    assert chatted[0].endswith("\n")
    assert "sft" not in chatted[0]
    names = [line.split()[0] for line in table[0].splitlines()]
    assert names == ["metric", "loss", "perplexity", "exact_match", "rouge_l"]
    shown = next(block for block in blocks("") if "perplexity" in block)
    assert [line.split()[0] for line in shown.splitlines()] == names

    found = json.loads(own[0])
    assert found == json.loads((place / "runs/mine/_sft/eval.json").read_text())
    (written,) = (json.loads(block) for block in blocks("json"))
    assert set(found) == set(written)
    for key in ("split", "samples", "step"):
        assert found[key] == written[key]
    assert list(found["base"]) == list(found["tuned"]) == list(written["base"])
    answers = [json.loads(line) for line in (place / "answers.jsonl").read_text().splitlines()]
    assert [one["id"] for one in answers] == [0, 1, 2]
    assert all({"row", "prompt", "reference", "base", "tuned"} <= set(one) for one in answers)


@pytest.mark.slow
@pytest.mark.usefixtures("printed")
def test_the_pages_demo_is_served_as_written(place: Path, tiny_model: Path) -> None:
    """After the commands of the page; tests/export/test_demo.py asks such a server."""
    from urllib.request import urlopen

    (command,) = blocks("sh")
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=place,
        env=environment(place, tiny_model),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address == "http://127.0.0.1:7871/"
        assert b"sft demo: mine" in urlopen(address, timeout=20).read()
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_the_pages_commands_of_a_chat_are_those_that_there_are() -> None:
    told = set(re.findall(r"`(/\w+)", PAGE))
    assert told == {usage.split()[0] for usage in COMMANDS} - {"/help"}
    (row,) = (line for line in PAGE.splitlines() if line.startswith("| `/set"))
    assert re.findall(r"`(\w+)`", row) == list(LIMITS)
