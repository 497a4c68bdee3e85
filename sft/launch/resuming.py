"""Where a launch continues: the newest whole checkpoint, laid out for the ranks that there are. No torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from sft.checkpoint import resume
from sft.config.run import RunConfig
from sft.errors import ExitCode, UserError
from sft.launch.command import PACKAGE_ROOT
from sft.plan.plan import Plan
from sft.rundir import RunDirectory


def say(line: str) -> None:
    """Tell people."""
    print(line, file=sys.stderr)


def continued(config: RunConfig, plan: Plan, entry: str | None, *, allow_changed: bool) -> str:
    """Choose the checkpoint to continue from, say so, and return it as the ranks are told of it."""
    chosen = resume.choose(config, say)
    if chosen is None:
        return ""
    data = Path(entry).name if entry else None
    launch = resume.Launch(plan.strategy, plan.processes, plan.batch.total, data)
    for line in [*resume.check(chosen, config, launch, allow_changed=allow_changed), chosen.told()]:
        say(line)
    if chosen.manifest is not None and chosen.manifest.world_size != plan.processes:
        return str(_resharded(chosen, run=config.run, ranks=plan.processes))
    return str(chosen.path.absolute())


def _resharded(chosen: resume.Resume, *, run: RunDirectory, ranks: int) -> Path:
    """Lay a checkpoint out for another number of ranks, in a process of its own: this one has no torch.

    Raises:
        UserError: it cannot be laid out anew, or the disk is full.
    """
    assert chosen.manifest is not None
    say(f"{chosen.path.name} was saved by {chosen.manifest.world_size} ranks; laying it out for {ranks}")
    target = run.resharded / chosen.path.name
    words = [
        sys.executable,
        "-P",
        "-m",
        "sft.checkpoint.reshard",
        str(chosen.path),
        str(target),
        "--ranks",
        str(ranks),
    ]
    run.resharded.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(words, env=_own_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"{chosen.path.name} cannot be laid out for {ranks} ranks: {(done.stderr.splitlines() or ['?'])[-1]}",
            where=str(chosen.path),
            fix=f"launch {chosen.manifest.world_size} processes, as it was saved by",
            exit_code=ExitCode.ENVIRONMENT,
        )
    if (target / "latest_universal").exists():
        settings = json.loads(run.deepspeed_json.read_text(encoding="utf-8"))
        settings["checkpoint"] = {**settings.get("checkpoint", {}), "load_universal": True}
        run.deepspeed_json.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return target.absolute()


def _own_environment() -> dict[str, str]:
    """Return the environment of a process of the kit's own."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")))),
    }
