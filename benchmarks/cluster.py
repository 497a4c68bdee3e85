"""What a cluster costs: from a job's start to its first step on two nodes, and a stop, requeue and resume.

    python benchmarks/cluster.py [--model MODEL] [--rounds 3] [--strategy zero2]

Starts a real Slurm of two nodes on this machine (root, Linux; see tests/slurm/cluster.py) and submits one run in two ways, by
turns: `sft launch --on slurm`, and the stock files that `sft eject` leaves (accelerate and TRL alone, with no supervisor, no
meeting of the nodes, no measurement of the network). A turn begins when Slurm starts the batch script and ends when the first
loss is logged. Then the kit's job is told to stop, as Slurm does before a time limit, goes back into the queue, and resumes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import tiny
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import job_record
from tests.slurm.runs import SFT, Submitted, submitted
from tests.slurm.settings import LOGIN

STEPS, EVERY, STOP_AT = 150, 50, 20
POLL_SECONDS = 0.05


def wait(happened: Callable[[], object], seconds: float = 180) -> float:
    """Wait for something, and return when it was seen, in seconds since the epoch."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise SystemExit("what was waited for did not come")
        time.sleep(POLL_SECONDS)
    return time.time()


def began(cluster: Cluster, job: str) -> float:
    """Wait until a job runs, and return when that was seen."""
    return wait(lambda: job_record(cluster, job)["JobState"] == "RUNNING")


def stock_turn(run: Submitted, place: Path) -> float:
    """Run the ejected files to their first loss, and return the seconds."""
    shutil.rmtree(place, ignore_errors=True)
    cluster = run.cluster
    cluster.exec(LOGIN, [SFT, "eject", str(run.run_file), "--output", str(place)], env=run.environment)
    command = ["sbatch", "--parsable", f"--output={place}/job.log", "job.sbatch"]
    # The stock script finds `accelerate` where the shell does.
    environment = {**run.environment, "PATH": f"{Path(SFT).parent}:{os.environ['PATH']}"}
    job = cluster.exec(LOGIN, command, cwd=place, env=environment).stdout.strip()
    start = began(cluster, job)
    log = place / "job.log"
    seconds = wait(lambda: log.exists() and "'loss'" in log.read_text(errors="replace")) - start
    cluster.settle()
    return seconds


def kit_turn(run: Submitted) -> dict[str, float]:
    """Run the kit's job over a stop and a requeue to its end, and return seconds by what they were spent on."""
    shutil.rmtree(run.run.output_dir, ignore_errors=True)
    cluster, job = run.cluster, run.submit()
    start = began(cluster, job)
    first = wait(lambda: run.steps() >= 1) - start
    wait(lambda: run.steps() >= STOP_AT)
    told = time.time()
    cluster.exec(LOGIN, ["scancel", "--batch", "--signal=USR1", job])
    left = wait(lambda: run.book.starts[0].ended is not None)
    stopped_at = run.book.starts[0].ended or 0
    wait(lambda: len(run.book.starts) == 2)
    again = run.book.starts[1].at
    resumed = wait(lambda: run.steps() > stopped_at)
    run.ended(job, 180)
    logged = [event["step"] for event in run.events if event["event"] == "log" and "loss" in event]
    cluster.settle()
    return {
        "first step after the job's start": first,
        "told to stop -> saved and left": left - told,
        "left -> Slurm starts it again": again - left,
        "started again -> first step": resumed - again,
        "steps trained again": float(len(logged) - len(set(logged))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model's directory [the tiny Llama of the tests]")
    parser.add_argument("--rounds", type=int, default=3, help="turns that count [3]")
    parser.add_argument("--strategy", default="zero2", help="as in launch.strategy [zero2]")
    arguments = parser.parse_args()
    cluster = Cluster()
    with tempfile.TemporaryDirectory(prefix="sft-cluster-") as name:
        place = Path(name)
        model = arguments.model or tiny.write_tiny_model(place / "model")
        try:
            cluster.up()
            run = submitted(
                cluster, place, model, strategy=arguments.strategy, max_steps=STEPS, save_steps=EVERY, callbacks=[]
            )  # fmt: skip
            stock, kit = [], []
            for turn in range(arguments.rounds + 1):
                plain, ours = stock_turn(run, place / "stock"), kit_turn(run)
                if turn:  # the first one fills the caches
                    stock.append(plain)
                    kit.append(ours)
        finally:
            cluster.down()
    print(
        f"{arguments.strategy}, 2 nodes x 2 processes, {arguments.rounds} turns: median (range)\n| | |\n|---|---:|"
    )
    rows = {title: [turn[title] for turn in kit] for title in kit[0]}
    first, *others = rows
    ratios = [ours / plain for ours, plain in zip(rows[first], stock, strict=True)]
    shown = {
        first: rows[first],
        "the same, stock files": stock,
        "ratio": ratios,
        **{key: rows[key] for key in others},
    }
    for title, values in shown.items():
        unit = "" if title in ("ratio", "steps trained again") else " s"
        digits = 2 if title == "ratio" else 0 if title == "steps trained again" else 1
        median, low, high = statistics.median(values), min(values), max(values)
        print(f"| {title} | {median:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f}) |")


if __name__ == "__main__":
    main()
