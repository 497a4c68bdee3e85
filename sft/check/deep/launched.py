"""Launch a rehearsal as a process of its own, leave nothing of it behind, and say in which phase it failed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sft.check.sealed import OFFLINE
from sft.errors import ExitCode, Problem
from sft.events import Event, read_events
from sft.launch.command import PACKAGE_ROOT
from sft.launch.said import RankState, read_object, read_states, read_tail
from sft.launch.stop import ONE_WISH_SECONDS, StopNow
from sft.parent import LINUX, bind_to
from sft.rundir import RunDirectory

LONGEST_SECONDS = 900.0
ENDING_SECONDS = 20.0
TAIL_LINES = 12
FSDP_ON_CPU = Path(__file__).parent / "fsdp_on_cpu"
NOT_INHERITED = (
    "SFT_SITE", "SFT_RUN_DIR", "SFT_SUPERVISED", "SFT_SUPERVISOR", "SFT_DATA", "SFT_RESUME", "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY",
)  # fmt: skip
"""What a site and another launch have set, and secrets, which nothing here needs."""
PHASES = {
    "start": "load",
    "prepare": "data",
    "load": "load",
    "train": "train",
    "evaluate": "evaluate",
    "save": "save",
    "export": "export",
    "leave": "export",
}
"""A rank's phase -> the word for people."""
FUNCTIONS = {
    "_determine_best_metric": "evaluate",
    "on_evaluate": "evaluate",
    "compute_metrics": "evaluate",
    "on_save": "save",
    "_save_checkpoint": "save",
    "save_pretrained": "save",
}
"""Functions of a traceback that tell the phase better than the rank does, which has told of its next one already."""
HANGS = re.compile(r"no progress for \d+ s")
CALLED = re.compile(r"^ *File \".*\", line \d+, in (\w+)$", re.MULTILINE)


class NotMadeError(Exception):
    """The rehearsal could not be made, which says nothing about the run; the message says why, `fix` what helps."""

    def __init__(self, what: str, fix: str | None = None) -> None:
        super().__init__(what)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Launched:
    """A launch that has ended.

    Attributes:
        began: seconds since the epoch.
        said: what it wrote on stderr.
    """

    run: RunDirectory
    code: int
    began: float
    seconds: float
    said: str

    @property
    def events(self) -> list[Event]:
        """What its ranks have told."""
        return list(read_events(self.run.events_jsonl))

    @property
    def notes(self) -> list[str]:
        """What it wanted the user to know."""
        return [str(event["text"]) for event in self.events if event["event"] == "note"]


def launch(run_file: Path, output_dir: Path, place: Path, *, is_fsdp: bool) -> Launched:
    """Run `sft launch` to its end, on files of this machine alone.

    Args:
        place: a directory for what is written besides.

    Raises:
        NotMadeError: it takes too long, or the machine's memory does not hold it.
        StopNow: the user wished to stop; nothing of it is left.
    """
    parent, began, started = os.getpid(), time.time(), time.monotonic()
    said = place / "stderr.log"
    place.mkdir(exist_ok=True)
    with said.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "sft.cli.main", "launch", str(run_file), "--no-check"],
            env=_environment(os.environ, place, is_fsdp=is_fsdp),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=(lambda: bind_to(parent)) if LINUX else None,
        )
        try:
            code = child.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            _end(child)
            raise NotMadeError(
                f"it had not ended after {LONGEST_SECONDS / 60:.0f} minutes on this machine"
            ) from None
        except BaseException:
            _end(child)
            raise
    text = said.read_text("utf-8", errors="replace")
    return Launched(RunDirectory(output_dir), code, began, time.monotonic() - started, text)


def failure(launched: Launched) -> tuple[str, Problem, ExitCode]:
    """Return the phase in which a launch failed, what is to be told, and what the command ends with.

    Raises:
        NotMadeError: it did not fail of the run, but of this machine.
    """
    run, code = launched.run, launched.code
    outcome = read_object(run.outcome_json) or {}
    states = read_states(run)
    failed = sorted((state for state in states.values() if state.status == "failed"), key=_first_failure)
    first = failed[0] if failed else next(iter(states.values()), None)
    if code == ExitCode.DOES_NOT_FIT or (code == ExitCode.WORKER_LOST and "SIGKILL" in launched.said):
        raise NotMadeError("this machine's memory does not hold it", "make it on a machine that has more")
    if code == ExitCode.STOPPED:
        raise NotMadeError("its processes were told to end")
    left = outcome.get("left") or []
    if outcome.get("status") == "failed" and left:
        what, _, _ = str(outcome.get("what")).partition("; ")
        return str(left[0]), Problem(f"{what}\n{_last_lines(launched.said)}"), _exit_code(code)
    if first is None or not outcome:
        return "data", _refusal(launched), _exit_code(code)
    tail = read_tail(run.rank_log(first.rank), 0, lines=TAIL_LINES * 4)
    phase = _phase(first, "\n".join(tail))
    what = str(outcome.get("what") or first.what)
    if HANGS.search(what):
        if all(state.phase == "start" for state in states.values()):
            why = f"its processes did not start: {what}\n{_last_lines(launched.said)}"
            raise NotMadeError(why, "try again when this machine is less busy")
        tail = [line for line in launched.said.splitlines() if line.strip()]  # where each rank stands
    if not first.is_user_problem or not failed:
        what += "\n" + "\n".join(f"    {line}" for line in tail[-TAIL_LINES:])
    return phase, Problem(what, outcome.get("where"), outcome.get("fix")), _exit_code(code)


def _first_failure(state: RankState) -> tuple[bool, float, int]:
    # A lost connection is what the others see of a rank that failed.
    return state.exit_code == ExitCode.WORKER_LOST, state.time, state.rank


def _phase(state: RankState, tail: str) -> str:
    known = [FUNCTIONS[name] for name in CALLED.findall(tail) if name in FUNCTIONS]
    return known[-1] if known else PHASES.get(state.phase or "start", "train")


def _exit_code(code: int) -> ExitCode:
    """A traceback is no bug of the check: the run would end so."""
    known = (ExitCode.USAGE, ExitCode.DOES_NOT_FIT, ExitCode.ENVIRONMENT)
    return ExitCode(code) if code in known else ExitCode.TRAINING_FAILED


def _refusal(launched: Launched) -> Problem:
    """Read back the last problem that a launch has told before any rank began."""
    lines = [line for line in launched.said.splitlines() if line.strip()]
    told: dict[str, str | None] = {"fix": None, "where": None}
    for name in told:
        if len(lines) > 1 and lines[-1].startswith(f"  {name}:"):
            told[name] = lines.pop().partition(":")[2].strip()
    is_told = any(told.values())
    what = lines[-1] if is_told else _last_lines(launched.said, indent="")
    return Problem(what or f"it ended with {launched.code}", told["where"], told["fix"])


def _last_lines(text: str, indent: str = "    ") -> str:
    lines = [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]
    return "\n".join(f"{indent}{line}" for line in lines)


def _environment(inherited: Mapping[str, str], place: Path, *, is_fsdp: bool) -> dict[str, str]:
    """Return the environment of a launch that reaches nobody: what it would push stays here."""
    kept = {name: value for name, value in inherited.items() if name not in NOT_INHERITED}
    path = [str(PACKAGE_ROOT), *([str(FSDP_ON_CPU)] if is_fsdp else []), kept.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "WANDB_DIR": str(place)}
    return {**kept, **OFFLINE, **own}


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a launch at once, as a second Ctrl-C does; it ends its ranks. Whatever the user does meanwhile."""
    try:
        with contextlib.suppress(StopNow, subprocess.TimeoutExpired):
            child.send_signal(signal.SIGINT)
            child.wait(2 * ONE_WISH_SECONDS)
        with contextlib.suppress(StopNow, subprocess.TimeoutExpired):
            child.send_signal(signal.SIGINT)
            child.wait(ENDING_SECONDS)
    finally:
        child.kill()  # the kernel then ends what it has started
        child.wait()
