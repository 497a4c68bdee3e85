"""The commands of README.md and docs/data.md, run as they stand there, on the tiny model in place of the quickstart's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

REPOSITORY = Path(__file__).resolve().parents[1]
SETUP_COMMANDS = ("bash launch/quickstart.sh", "bash tests/run.sh")
"""Run by other means: the first downloads a model (tests/quickstart runs its stages), the second runs this test."""


def blocks(page: str = "README.md") -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [block.strip() for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)]


def commands() -> list[str]:
    """Every command line of the README below the set-up, in order."""
    lines = [line for block in blocks() if block not in SETUP_COMMANDS for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A directory as the quickstart leaves it: launch/, recipes/, .venv and quickstart/ with model and data."""
    place = tmp_path_factory.mktemp("readme")
    for name in ("launch", "recipes"):
        (place / name).symlink_to(REPOSITORY / name)
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "activate").write_text(f"export PATH={Path(sys.executable).parent}:$PATH\n")
    (place / "quickstart" / "data").mkdir(parents=True)
    (place / "quickstart" / "base").symlink_to(tiny_model)
    rows = tiny.chats(120)
    tiny.write_rows(place / "quickstart" / "data" / "train.jsonl", rows[:100])
    tiny.write_rows(place / "quickstart" / "data" / "test.jsonl", rows[100:])
    return place


def test_readme_names_the_two_set_up_commands_and_ci_runs_the_second() -> None:
    assert blocks()[:2] == list(SETUP_COMMANDS)
    assert "tests/run.sh" in (REPOSITORY / ".ci" / "run").read_text()


def test_every_command_runs_as_written(place: Path) -> None:
    script = "set -euo pipefail\n" + "\n".join(
        f"echo '>>>' {index} >&2\n{line}" for index, line in enumerate(commands())
    )
    # `sft push` reaches no Hub here; that it then ends with 4 and says so is what it promises.
    script = script.replace("sft push runs/pushed", "sft push runs/pushed || test $? = 4")
    assert len(commands()) > 10
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=place,
        # Nothing listens on port 9: the Hub is out of reach, as on a compute node.
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_x", "WANDB_MODE": "online"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr[-6000:]}"
    for run in ("mine", "pushed", "kept", "full", "qlora", "zero3", "offline"):
        assert (place / "runs" / run / "_sft" / "outcome.json").exists(), run
    assert (place / "runs" / "qlora" / "merged" / "model.safetensors").exists()
    assert (place / "my_zero3.yaml").exists()
    assert "sft sync" in done.stderr


def test_the_commands_of_the_page_on_data_run_as_written(place: Path) -> None:
    script = "\n".join(["set -euo pipefail", *commands()[:2], *blocks("docs/data.md")])
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "loss on       generation markers (100)" in done.stdout
    assert (place / "rows.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
