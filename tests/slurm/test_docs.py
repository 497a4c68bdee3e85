"""docs/cluster.md as a person would follow it: every command of the page, in its order, on the real cluster."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sft.config.loader import load_run
from tests.slurm.cluster import Cluster
from tests.slurm.runs import SFT, Submitted, submitted
from tests.slurm.settings import LOGIN
from tests.slurm.test_scripts import reachable, ssh_environment

__all__ = ["reachable"]

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
ELSEWHERE = {"sft push": "tests/slurm/test_offline.py", "sft sync": "tests/slurm/test_survives.py"}
"""Commands that take a server beside them, and the tests that run them with one."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(tuple(ELSEWHERE))]


@pytest.mark.parametrize("block", blocks("yaml"))
def test_the_pages_settings_are_keys(block: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    settings: dict[str, Any] = YAML(typ="safe").load(block)
    assert set(settings) == {"launch"}
    with file.open("w") as stream:
        YAML(typ="safe").dump({"model_name_or_path": "m", "dataset_name": "d", **settings}, stream)
    load_run(file, environment={})


@pytest.mark.slow
def test_the_pages_commands_run(cluster: Cluster, tmp_path: Path, tiny_model: Path, reachable: str) -> None:
    run = submitted(
        cluster, tmp_path, tiny_model, max_steps=30, save_steps=5, slow_seconds=0.2,
        launch={"ssh": {"hosts": ["node1", "node2"], "command": reachable}},
    )  # fmt: skip
    shutil.copytree(REPOSITORY / "launch", tmp_path / "launch")
    (tmp_path / "hosts").write_text("node1\nnode2\n")
    environment = {**run.environment, **ssh_environment(reachable)}
    environment["PATH"] = f"{Path(SFT).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    ran = []
    for line in commands():
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            environment[name] = value.replace("$PWD", str(tmp_path))
            continue
        ready(run, line)
        done = cluster.exec(
            LOGIN, ["bash", "-c", line], cwd=tmp_path, env=environment, check=False, timeout=240
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if line.startswith("sbatch"):
            run.until(lambda: run.steps() >= 1, 120, "first step")
        ran.append(" ".join(line.split()[:2]))
    assert {"sft configure", "sft check", "sft fetch", "sft launch", "sft status", "sft watch"} <= set(ran)
    assert {"sft logs", "sft cancel", "sbatch job.sbatch"} <= set(ran)


def ready(run: Submitted, line: str) -> None:
    """Bring the run where a reader of the page has it at this line."""
    if "--on" not in line and not line.startswith(("sft cancel", "sbatch", "HOSTFILE")):
        return
    # One run at a time has the directory.
    if not line.startswith("sft cancel"):
        stop(run)
        if line.startswith("sbatch"):
            return
        shutil.rmtree(run.run.output_dir, ignore_errors=True)
    else:
        shutil.rmtree(run.run.output_dir, ignore_errors=True)
        run.sft("launch", str(run.run_file), "--on", "slurm")
        run.until(lambda: run.steps() >= 1, 120, "first step")


def stop(run: Submitted) -> None:
    """End what still runs."""
    if run.sft("cancel", str(run.run_file), "--now", check=False).returncode == 0:
        run.until(lambda: not any("sft" in stray for stray in run.strays()), 60, "end of every process")
