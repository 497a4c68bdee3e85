"""Show for one's own run, on one's own hardware, that a kill costs nothing: train, kill, resume, compare."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sft.config.loader import LoadedRun
from sft.errors import ExitCode, UserError
from sft.events import read_events
from sft.launch.command import PACKAGE_ROOT
from sft.rundir import RunDirectory

KILL = "sft.training.certify:KillSupervisor"
KILL_VARIABLE = "SFT_CERTIFY_KILL"
# What a run of a few steps does not do: it only trains and saves.
PLAIN = {
    "logging_steps": 1, "logging_strategy": "steps", "logging_first_step": False, "save_strategy": "steps",
    "save_only_model": False, "load_best_model_at_end": False, "eval_strategy": "no", "report_to": "none",
    "push_to_hub": False, "merge": False, "num_train_epochs": None, "save_total_limit": None,
    "resume_from_checkpoint": None, "early_stopping_patience": None, "metric_for_best_model": None, "do_eval": None,
    "eval_on_start": None, "hub_model_id": None, "hub_strategy": None, "validation_fraction": None,
}  # fmt: skip
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "I8": "i1"}


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two runs are apart.

    Attributes:
        step: the first one whose loss differs; None where all are equal.
        loss: the largest difference of a step's loss.
        tensor: the first one, in the order of the files, that differs; None where all are equal.
        weight: the largest difference of a weight.
    """

    step: int | None
    loss: float
    tensor: str | None
    weight: float

    @property
    def is_none(self) -> bool:
        """Whether the runs are equal, bit by bit."""
        return self.step is None and self.tensor is None

    def within(self, spread: Difference) -> bool:
        """Whether two runs are no further apart than two that were not interrupted."""
        return self.loss <= spread.loss and self.weight <= spread.weight


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was done and what came of it.

    Attributes:
        resumed: the killed and resumed run against the whole one.
        spread: a second whole run against the first; None where it was not needed, as all was equal.
    """

    steps: int
    saved: int
    killed: int
    resumed: Difference
    spread: Difference | None

    @property
    def holds(self) -> bool:
        """Whether the resume is exact: equal, or within the spread of runs that were not interrupted."""
        return self.resumed.is_none or (self.spread is not None and self.resumed.within(self.spread))

    def lines(self) -> list[str]:
        """Say it to people."""
        done = f"{self.steps} steps; killed at step {self.killed}, resumed from step {self.saved}"
        if self.resumed.is_none:
            return [f"equal: every loss and every weight, bit by bit ({done})"]
        found = self.resumed
        where = [f"the loss of step {found.step} (by at most {found.loss:.3g})"] if found.step else []
        where += [f"{found.tensor} (by at most {found.weight:.3g})"] if found.tensor else []
        lines = [f"not equal: first {' and '.join(where)} ({done})"]
        if self.spread is not None:
            apart = f"{self.spread.loss:.3g} in the loss and {self.spread.weight:.3g} in the weights"
            lines.append(
                f"two runs that were not interrupted are {apart} apart: the resume is "
                + ("within that" if self.holds else "NOT within that")
            )
        return lines


def certify(loaded: LoadedRun, *, steps: int) -> Certificate:
    """Train `steps` steps, and again with a kill and a resume in between; compare.

    Raises:
        UserError: too few steps, or a run that fails of its own.
    """
    if steps < 3:
        raise UserError("certify needs at least 3 steps", where="--steps", fix="leave it out: 6 are enough")
    saved, killed = steps // 2, steps // 2 + 1
    place = loaded.config.run.kit / "certify"
    shutil.rmtree(place, ignore_errors=True)
    whole, broken = place / "whole", place / "killed"
    _train(loaded, whole, steps, saved)
    _train(loaded, broken, steps, saved, killed=killed)
    _train(loaded, broken, steps, saved)
    resumed = compare(whole, broken, after=saved)
    spread = None
    if not resumed.is_none:
        _train(loaded, place / "again", steps, saved)
        spread = compare(whole, place / "again", after=saved)
    certificate = Certificate(steps, saved, killed, resumed, spread)
    (place / "report.json").write_text(
        json.dumps({**asdict(certificate), "holds": certificate.holds}, indent=2) + "\n", encoding="utf-8"
    )
    return certificate


def _train(loaded: LoadedRun, output: Path, steps: int, saved: int, *, killed: int | None = None) -> None:
    settings = {
        **{key: value for key, value in loaded.config.settings().items() if key not in PLAIN},
        **{key: value for key, value in PLAIN.items() if value is not None},
        "max_steps": steps,
        "save_steps": saved,
        "output_dir": str(output),
    }
    environment = {**os.environ, "PYTHONPATH": _path()}
    if killed is not None:
        settings["callbacks"] = [*loaded.config.kit.callbacks, KILL]
        environment[KILL_VARIABLE] = f"{saved}:{killed}"
    output.mkdir(parents=True, exist_ok=True)
    run_file = output / "certify.yaml"
    run_file.write_text(_yaml(settings), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "sft.cli.main", "launch", str(run_file)]
    code = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode
    if code != (0 if killed is None else -9):
        raise UserError(
            f"the run to compare with ended with {code}",
            where=str(RunDirectory(output).logs),
            fix="mend what is told above; `sft launch` would end so too",
            exit_code=ExitCode(code) if code in set(ExitCode) - {0} else ExitCode.BUG,
        )


def _path() -> str:
    return os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))


def _yaml(settings: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    text = io.StringIO()
    YAML(typ="safe").dump(dict(settings), text)
    return text.getvalue()


def compare(one: Path, other: Path, *, after: int) -> Difference:
    """Compare the losses behind a step, and the weights, of two output directories."""
    losses, others = _losses(one), _losses(other)
    steps = [step for step in sorted({*losses, *others}) if step > after]
    apart = {step: abs(losses.get(step, np.inf) - others.get(step, -np.inf)) for step in steps}
    differing = [step for step in steps if losses.get(step) != others.get(step)]
    tensor, weight = None, 0.0
    here, there = _tensors(one), _tensors(other)
    for name in sorted({*here, *there}):
        if name not in here or name not in there:
            return Difference(differing[0] if differing else None, max(apart.values()), name, float("inf"))
        a, b = here[name], there[name]
        if a.tobytes() != b.tobytes():
            tensor = tensor or name
            weight = max(weight, float(np.abs(_numbers(a) - _numbers(b)).max()))
    return Difference(differing[0] if differing else None, float(max(apart.values())), tensor, weight)


def _losses(output: Path) -> dict[int, float]:
    """Return each step's loss, as it was logged last: the steps behind a checkpoint were trained twice."""
    events = read_events(RunDirectory(output).events_jsonl)
    return {event["step"]: event["loss"] for event in events if event["event"] == "log" and "loss" in event}


def _tensors(output: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Map the tensors of a directory's safetensors files; bfloat16 as its 16 bits."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for path in sorted(output.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        whole = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
        for name, tensor in header.items():
            if name != "__metadata__":
                start, stop = tensor["data_offsets"]
                found[f"{path.name}:{name}"] = whole[start:stop].view(TYPES.get(tensor["dtype"], "<u2"))
    return found


def _numbers(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if values.dtype == np.dtype("<u2"):  # bfloat16 is the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)
