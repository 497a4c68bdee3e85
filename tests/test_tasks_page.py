"""docs/tasks.md: its commands, run as they stand there on the tiny model, and its example, which is checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from sft.config.loader import load_run
from tests.test_readme import REPOSITORY, blocks, place

__all__ = ["place"]
PAGE = "docs/tasks.md"
TEXT = (REPOSITORY / PAGE).read_text(encoding="utf-8")


@pytest.mark.slow  # three trainings, and answers of a model that has not learnt to end them
def test_the_pages_commands_run_as_written(place: Path) -> None:
    script = "\n".join(["set -euo pipefail", *blocks(PAGE)])
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, capture_output=True, text=True, timeout=1500, check=False,
        env={**os.environ, "DATA": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    assert f"dataset_mapping: {place}/recipes/tasks/sql.py:to_chat  (recipes/tasks/sql.py:" in done.stdout
    finished = re.findall(
        r"^recipes/tasks/(\w+)\.py +(\w+) +(\S+) +(\S+) .*runs/\1 +finished$", done.stdout, re.M
    )
    # The table at the end of the launch of two, and the one of three that was asked for.
    assert [(task, metric) for task, metric, _, _ in finished] == [
        ("rewrite", "polite_overlap"), ("instruct", "perplexity"),
        ("rewrite", "polite_overlap"), ("instruct", "perplexity"), ("sql", "same_result"),
    ]  # fmt: skip
    before, after = (float(value) for value in finished[1][2:])
    assert after < before, "four steps must have taught something"
    last = [json.loads(line) for line in done.stdout.splitlines()[-2:]]
    assert [one["metric"] for one in last] == ["polite_overlap", "same_result"]
    assert [one["state"] for one in last] == ["finished", "finished"]


def test_the_example_of_the_page_is_a_task_file(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "mine.py"
    path.write_text(block)
    kit = load_run(path, environment={}).config.kit
    assert (kit.dataset_mapping, kit.eval_metrics[2]) == (f"{path}:to_chat", f"{path}:close_enough")


def test_what_takes_a_cluster_is_marked() -> None:
    """The array is launched on a real Slurm by tests/slurm/test_several.py."""
    (line,) = re.findall(r"```console\n\$ (.*)\n```", TEXT)
    assert "--on slurm" in line
    assert line.split()[2:4] == ["recipes/tasks/rewrite.py", "recipes/tasks/sql.py"]
    assert "this takes a login node with Slurm" in TEXT
