"""Evaluate a job in one process or several, and gather every sample exactly once. Imports torch only in the processes."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.errors import ExitCode, Problem, UserError
from sft.export.job import FAILED, SIDES, Job, Side
from sft.parent import LINUX, bind_to

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_LOOKS = 0.2
LOG_LINES = 12
"""Of a process that died without a word, the last of which are shown."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scored:
    """One sample of one side.

    Attributes:
        loss: summed over its tokens that carry loss.
        told: prompt, reference and prediction, where there are metrics of answers.
    """

    id: int
    loss: float
    tokens: int
    scores: dict[str, float]
    told: dict[str, str]


Scores = dict[Side, list[Scored]]


def evaluate(job: Job, say: Say) -> Scores:
    """Measure all samples of a job; the lists are in the order of the samples.

    Raises:
        UserError: what a process refused, or a process was lost.
    """
    with tempfile.TemporaryDirectory(prefix="sft-eval-") as place:
        path = Path(place, "job")
        with path.open("wb") as file:
            pickle.dump(job, file)
        _run(job, path, say)
        lines = [
            line
            for rank in range(job.processes)
            for line in Path(place, f"rank-{rank}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    return gathered([json.loads(line) for line in lines], len(job.samples))


def gathered(told: Sequence[dict[str, Any]], samples: int) -> Scores:
    """Put what the processes have told in the order of the samples.

    Raises:
        RuntimeError: a sample is missing or was measured twice, which is a bug.
    """
    found: Scores = {}
    for side in SIDES:
        own = sorted((one for one in told if one["side"] == side), key=lambda one: int(one["id"]))
        if [one["id"] for one in own] != list(range(samples)):
            raise RuntimeError(f"{side}: {len(own)} results of {samples} samples, not each of them once")
        names = ("prompt", "reference", "prediction")
        found[side] = [
            Scored(
                one["id"],
                one["loss"],
                one["tokens"],
                one["scores"],
                {name: one[name] for name in names if name in one},
            )
            for one in own
        ]
    return found


def means(scored: Sequence[Scored]) -> dict[str, float]:
    """Sum up one side: loss a token that carries loss, and the mean of each metric over the samples.

    The sums are exact before they are rounded, so that the order and the number of processes change nothing.
    """
    tokens = sum(one.tokens for one in scored)
    loss = math.fsum(one.loss for one in scored) / tokens if tokens else math.nan
    try:
        perplexity = math.exp(loss)
    except OverflowError:
        perplexity = math.inf
    found = {"loss": loss, "perplexity": perplexity}
    for name in scored[0].scores if scored else ():
        found[name] = math.fsum(one.scores[name] for one in scored) / len(scored)
    return found


def _run(job: Job, path: Path, say: Say) -> None:
    """Start the processes and wait for them; none is left, however this ends."""
    children: list[subprocess.Popen[bytes]] = []
    progress = _Progress(job, path, say)
    try:
        for rank in range(job.processes):
            children.append(_start(path, rank))
        while any(child.poll() is None for child in children):
            for rank, child in enumerate(children):
                if child.poll():
                    raise _failure(path, rank, child.returncode)
            progress.tell()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        for rank, child in enumerate(children):
            if child.returncode:
                raise _failure(path, rank, child.returncode)
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


def _start(path: Path, rank: int) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def begin() -> None:
        if LINUX:
            bind_to(parent)

    package = str(Path(__file__).resolve().parents[2])
    with path.with_name(f"rank-{rank}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "sft.export.evaluate", str(path), str(rank)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=begin,
        )


def _failure(path: Path, rank: int, code: int) -> Exception:
    """Say why a process has ended before its work was done."""
    try:
        told = json.loads(path.with_name(FAILED.format(rank)).read_text(encoding="utf-8"))
        problems = [Problem(*problem) for problem in told["problems"]]
        return UserError.of(problems, exit_code=ExitCode(told["exit_code"]))
    except (OSError, ValueError):
        pass
    if code == -signal.SIGKILL:
        return UserError(
            f"process {rank} of the evaluation was killed",
            fix="the likely cause is that the machine's memory ran out: ask for more, or for fewer --processes",
            exit_code=ExitCode.WORKER_LOST,
        )
    log = path.with_name(f"rank-{rank}.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return RuntimeError(
        "\n".join([f"process {rank} of the evaluation ended with {code}:", *log[-LOG_LINES:]])
    )


class _Progress:
    """Says now and then how many samples are done."""

    def __init__(self, job: Job, path: Path, say: Say) -> None:
        self._files = [path.with_name(f"rank-{rank}.jsonl") for rank in range(job.processes)]
        self._total, self._say, self._last = len(SIDES) * len(job.samples), say, time.monotonic()

    def tell(self) -> None:
        if time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = time.monotonic()
        done = sum(file.read_bytes().count(b"\n") for file in self._files if file.exists())
        self._say(f"{done:,} of {self._total:,} measured (each sample with base and tuned model)")
