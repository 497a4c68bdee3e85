"""Launch real runs with `sft launch` and read what they left."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.events import Event, read_events
from sft.rundir import RunDirectory

REPOSITORY = Path(__file__).resolve().parents[2]
FSDP_ON_CPU = REPOSITORY / "sft" / "check" / "deep" / "fsdp_on_cpu"
# The kit's own package comes by the editable install, as it does for a user.
SFT = [sys.executable, "-m", "sft.cli.main"]


@dataclass(frozen=True)
class Launched:
    """One finished `sft` command and its run directory."""

    code: int
    stdout: str
    stderr: str
    run: RunDirectory

    @property
    def events(self) -> list[Event]:
        return list(read_events(self.run.events_jsonl))

    def of_kind(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def losses(self) -> list[float]:
        """The loss of each logged step."""
        return [event["loss"] for event in self.of_kind("log") if "loss" in event]

    @property
    def eval_losses(self) -> list[float]:
        return [event["eval_loss"] for event in self.of_kind("evaluate")]

    def rank_log(self, rank: int = 0) -> str:
        path = self.run.rank_log(rank)
        return path.read_text(errors="replace") if path.exists() else ""


def launch(
    output_dir: Path,
    settings: dict[str, Any],
    *words: str,
    environment: dict[str, str] | None = None,
    limit: float = 240,
) -> Launched:
    """Write a run file and launch it; nothing is asserted of how it ends."""
    from ruamel.yaml import YAML

    output_dir.parent.mkdir(parents=True, exist_ok=True)
    run_file = output_dir.parent / f"{output_dir.name}.yaml"
    with run_file.open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump({**settings, "output_dir": str(output_dir)}, stream)
    done = subprocess.run(
        [*SFT, "launch", str(run_file), *words],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    return Launched(done.returncode, done.stdout, done.stderr, RunDirectory(output_dir))


def succeeded(launched: Launched) -> Launched:
    """Return a launch that ended with 0; else show why not."""
    assert launched.code == 0, f"exit {launched.code}\n{launched.stderr}\n{launched.rank_log()[-3000:]}"
    return launched
