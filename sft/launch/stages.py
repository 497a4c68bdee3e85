"""What follows the training, on the machine that started it: merge, evaluate and push. A stop leaves them to the next launch.

While they are not done the outcome says what is left (`left`), however this launch ends, and the same command does that and
trains nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

from sft.config.run import RunConfig
from sft.errors import ExitCode, Problem
from sft.events import EventLog
from sft.launch.command import PACKAGE_ROOT
from sft.launch.said import read_object
from sft.launch.stop import StopNow, StopRequests
from sft.parent import LINUX, bind_to
from sft.rundir import RunDirectory

CLEAN_UP_SECONDS = 30.0
"""How long a stage that was told to end may take to remove what it has written."""
TOLD_TO_END = (-signal.SIGTERM, 128 + signal.SIGTERM)
"""How a stage ends that a scheduler signalled, before and after it has begun to write."""
DOING = {"merge": ("merge", "merges"), "eval": ("evaluation", "evaluates")}
"""A stage that is a process of its own, as a noun and as a verb."""
STDERR = 2


def wanted(config: RunConfig) -> list[str]:
    """List what the run file asks for after the training."""
    asked = {
        "merge": config.kit.merge,
        "eval": bool(config.kit.eval_metrics),
        "push": config.training.push_to_hub,
    }
    return [name for name, is_asked in asked.items() if is_asked]


def left_over(run: RunDirectory) -> list[str]:
    """List what a launch that was stopped, killed or failed after its training has left."""
    outcome = read_object(run.outcome_json) or {}
    return [str(name) for name in outcome.get("left", [])]


def follow(config: RunConfig, stages: list[str], stop: StopRequests) -> int:
    """Do the stages, and return the exit code of the launch."""
    run, left, code = config.run, list(stages), int(ExitCode.DONE)
    failed: list[str] = []
    if not left:
        return code
    try:
        with stop.interrupting():
            while left:
                _write(run, _finished(run) | {"left": failed + left})
                if left[0] == "push":
                    _push(run, config.launch.push_seconds)
                else:
                    ended = _merge(run) if left[0] == "merge" else _evaluate(run)
                    failed += [left[0]] if ended else []
                    code = code or ended
                left.pop(0)
    except StopNow:
        noun = DOING[left[0]][0] if left[0] in DOING else left[0]
        what = f"stopped before the {noun} was done: the same command does it"
        return stopped(run, stop, what, failed + left)
    if failed:
        nouns, verbs = (" and ".join(words) for words in zip(*(DOING[name] for name in failed), strict=True))
        nouns = nouns.replace(" and ", " and the ")
        what = f"the {nouns} failed; the training is done: the same command {verbs}, and trains nothing"
        return _ended(run, {"status": "failed", "exit_code": code, "what": what, "left": failed})
    _write(run, _finished(run))
    return code


def _finished(run: RunDirectory) -> dict[str, Any]:
    return {
        "status": "finished",
        "exit_code": 0,
        "step": (read_object(run.outcome_json) or {}).get("step", 0),
    }


def stopped(run: RunDirectory, stop: StopRequests, what: str, left: list[str]) -> int:
    """Say that the launch was stopped where no rank runs, and return its exit code."""
    reason = stop.first.name if stop.first else signal.SIGTERM.name
    outcome = {"status": "stopped", "exit_code": int(ExitCode.STOPPED), "reason": reason, "what": what}
    return _ended(run, outcome | ({"left": left} if left else {}))


def _ended(run: RunDirectory, outcome: dict[str, Any]) -> int:
    """Write how the launch ended, and say it."""
    step = (read_object(run.outcome_json) or {}).get("step", 0)
    _write(run, outcome | {"step": step})
    log, what, code = EventLog(run.events_jsonl), str(outcome["what"]), int(outcome["exit_code"])
    log.write("note", text=what)
    log.write("end", status=outcome["status"], exit_code=code, step=step)
    print(what, file=sys.stderr)
    return code


def _write(run: RunDirectory, outcome: dict[str, Any]) -> None:
    partial = run.outcome_json.with_suffix(".partial")
    partial.write_text(json.dumps(outcome) + "\n", encoding="utf-8")
    partial.replace(run.outcome_json)


def _merge(run: RunDirectory) -> int:
    """Merge, and return the exit code.

    Raises:
        StopNow: it was broken off, and has removed what it had written.
    """
    words = ["merge", str(run.output_dir), "--output", str(run.merged), "--overwrite"]
    return _process(run, "merge", words, subprocess.DEVNULL)


def _evaluate(run: RunDirectory) -> int:
    """Evaluate what was trained, show the table to people, and return the exit code.

    Raises:
        StopNow: it was broken off.
    """
    # Of an earlier training in this directory: what is read there is to be of this one.
    (run.kit / "eval.json").unlink(missing_ok=True)
    return _process(run, "evaluation", ["eval", str(run.output_dir)], STDERR)


def _process(run: RunDirectory, doing: str, words: list[str], stdout: int) -> int:
    """Run one of the kit's commands in a process of its own: this one has no torch."""
    parent = os.getpid()

    def begin() -> None:
        # One way to be told to end, which it knows how to take.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        if LINUX:
            bind_to(parent)

    path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "sft.cli.main", *words],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        start_new_session=True,
        preexec_fn=begin,
    )
    try:
        code = child.wait()
    except StopNow:
        with contextlib.suppress(StopNow, subprocess.TimeoutExpired):  # asked again: at once
            child.terminate()
            child.wait(CLEAN_UP_SECONDS)
        child.kill()
        child.wait()
        raise
    if code in TOLD_TO_END:
        raise StopNow
    if code >= 0:
        return code
    an = "a" if doing == "merge" else "an"
    problem = Problem(
        f"the {doing} was killed by {signal.Signals(-code).name}",
        f"{run.output_dir}, pid {child.pid}",
        f"the likely cause is that the machine's memory ran out: {an} {doing} holds the whole model in it; ask for more",
    )
    print(problem, file=sys.stderr)
    return int(ExitCode.WORKER_LOST)


def _push(run: RunDirectory, seconds: float) -> None:
    """Deliver what waits, within a limit. A Hub that fails is told, and the run is done all the same."""
    from sft.hub.background import finish_delivery

    print(f"pushing to the Hub (at most {seconds:.0f} s)", file=sys.stderr)
    for line in finish_delivery(run, timeout_seconds=seconds).lines():
        print(line, file=sys.stderr)
