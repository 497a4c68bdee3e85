"""docs/flows.md as a person would follow it: its commands as written, the recipe's model and data on a loopback Hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.flow.flows import REPOSITORY, environment, shown_by
from tests.loopback.files import FilesHub

PAGE = (REPOSITORY / "docs" / "flows.md").read_text(encoding="utf-8")
INSTALLED = 'pip install -c constraints.txt -e ".[metaflow]"'


def blocks(language: str) -> list[str]:
    return [
        block.strip() for block in re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    ]


def test_the_page_marks_what_needs_a_cluster() -> None:
    assert blocks("bash")[0] == INSTALLED
    assert not any("kubernetes" in block for block in blocks("bash"))
    assert "Untested here: there is no cluster." in PAGE
    head = (
        (REPOSITORY / "launch" / "metaflow_flow.py").read_text(encoding="utf-8").partition('"""\n\nimport')[0]
    )
    decorator = next(block for block in blocks("python") if block.startswith("@kubernetes("))
    assert decorator in head
    assert "untested here" in head


@pytest.mark.slow
def test_the_pages_commands_run(tmp_path: Path, tiny_model: Path) -> None:
    for name in ("launch", "recipes"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    rows = tiny.write_chats(tmp_path / "rows.jsonl", 100).read_bytes()
    script = "\n".join(["set -euo pipefail", *blocks("bash")[1:]])
    read = next(block for block in blocks("python") if "load_model" in block)
    with FilesHub() as hub:
        hub.put_directory("Qwen/Qwen3-8B", tiny_model)
        hub.put("datasets/trl-lib/Capybara", {"train.jsonl": rows})
        more = {
            **hub.environment(tmp_path / "home", token=None),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        for words in (["bash", "-c", script], [sys.executable, "-c", read]):
            done = subprocess.run(
                words,
                cwd=tmp_path,
                env=environment(tmp_path, more),
                capture_output=True,
                text=True,
                timeout=580,
                check=False,
            )
            assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    weights = [request for request in hub.bodies if request.endswith("model.safetensors")]
    assert len(weights) == 1
    assert "Plan and measurement" in shown_by(tmp_path / "card.html")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert (tmp_path / "merged" / "model.safetensors").exists()
    assert "'exit_code': 0" in done.stdout
