"""Every command that takes a run file takes a task file, and says the same of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from sft.rundir import RunDirectory
from tests.training.launching import SFT

MINE = "def to_chat(row):\n    return {{'messages': row['messages']}}\n"
YAML = """\
model_name_or_path: {model}
dataset_name: {data}
dataset_mapping: {place}/pair.py:to_chat
use_peft: true
lora_target_modules: all-linear
max_length: 128
max_steps: 4
output_dir: runs/pair
launch: {{processes_per_node: 1, gpu: a100-40g}}
"""
TASK = MINE + (
    "\nRUN = {{\n"
    "    'model_name_or_path': {model!r},\n"
    "    'dataset_name': {data!r},\n"
    "    'dataset_mapping': to_chat,\n"
    "    'use_peft': True,\n"
    "    'lora_target_modules': 'all-linear',\n"
    "    'max_length': 128,\n"
    "    'max_steps': 4,\n"
    "    'output_dir': 'runs/pair',\n"
    "    'launch': {{'processes_per_node': 1, 'gpu': 'a100-40g'}},\n"
    "}}\n"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_chats: Path) -> Path:
    """Return a directory that holds one run as pair.yaml and as pair.py."""
    place = tmp_path_factory.mktemp("pair")
    named = {"model": str(tiny_model), "data": str(tiny_chats), "place": str(place)}
    (place / "pair.yaml").write_text(YAML.format(**named))
    (place / "pair.py").write_text(TASK.format(**named))
    return place


def said(place: Path, words: list[str], file: str) -> str:
    """Call a command, and return what it prints without the names of the run file and its lines."""
    done = subprocess.run(
        [*SFT, *words[:2], file, *words[2:]] if words[0] == "data" else [*SFT, words[0], file, *words[1:]],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for line in range(20, 0, -1):
        text = text.replace(f"({file}:{line})", "(FILE)").replace(f"{file}:{line}", "FILE")
    return re.sub(rf"(?<!/){re.escape(file)}", "FILE", text)  # a function's own path is the same in both


@pytest.mark.parametrize(
    "words",
    [
        ["check"],
        ["data", "show", "-n", "2"],
        ["launch", "--dry-run"],
        pytest.param(["plan", "--gpu", "a100-40g"], marks=pytest.mark.slow),
        pytest.param(["data", "stats"], marks=pytest.mark.slow),
        pytest.param(["launch", "--on", "background", "--dry-run"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_the_command_says_the_same_of_both(pair: Path, words: list[str]) -> None:
    texts, resolved = [], []
    for file in ("pair.yaml", "pair.py"):
        texts.append(said(pair, words, file))
        run = RunDirectory(pair / "runs" / "pair")
        for path in (run.run_yaml, run.submitted_yaml):
            resolved.append(path.read_text().partition("\n")[2] if path.exists() else "")
    assert texts[0] == texts[1]
    assert texts[0].strip()
    if words[0] == "launch":
        assert resolved[:2] == resolved[2:]
        assert f"dataset_mapping: {pair}/pair.py:to_chat" in "".join(resolved)


@pytest.mark.slow
def test_stock_files_of_both_are_the_same(pair: Path) -> None:
    trees = []
    for file in ("pair.yaml", "pair.py"):
        said(pair, ["eject", "--output", f"stock-{file[5:]}"], file)
        stock = pair / f"stock-{file[5:]}"
        trees.append(
            {
                str(path.relative_to(stock)): path.read_bytes()
                .replace(file.encode(), b"")
                .replace(stock.name.encode(), b"")
                for path in stock.rglob("*")
                if path.is_file() and path.name != "README.md"
            }
        )
    assert trees[0] == trees[1]
    assert "data/train.jsonl" in trees[0]


def test_commands_about_a_run_take_its_task_file(pair: Path) -> None:
    said(pair, ["launch", "--dry-run"], "pair.py")
    assert said(pair, ["status"], "pair.py").startswith(str(pair / "runs" / "pair"))
    assert said(pair, ["table"], "pair.py").splitlines()[1].split()[0] == "FILE"


def test_a_task_file_with_a_mistake_names_its_line_everywhere(pair: Path) -> None:
    text = (pair / "pair.py").read_text().replace("'use_peft'", "'use_perft'")
    (pair / "wrong.py").write_text(text)
    for words in (["check"], ["launch"], ["status"]):
        done = subprocess.run(
            [*SFT, *words, "wrong.py"], cwd=pair, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "unknown key use_perft\n  where: wrong.py:8\n  fix:   did you mean use_peft?\n" in done.stderr
