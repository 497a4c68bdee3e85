"""Show what a run has printed: the job's own log, a rank's, a node's, or the launcher's.

Without --rank and --node it is the newest log of the job, or rank 0's where the run was launched by hand.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sft.rundir import RunDirectory

LINES = 100
POLL_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="output_dir, or RUN.yaml")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--rank", type=int, metavar="N", help="what one rank has printed")
    which.add_argument("--node", type=int, metavar="N", help="what the supervisor of one node has printed")
    which.add_argument("--launcher", action="store_true", help="what accelerate and torchrun have printed")
    parser.add_argument(
        "-n", "--lines", type=int, default=LINES, metavar="N", help=f"the last N lines [{LINES}]"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    from sft.errors import ExitCode, UserError
    from sft.launch.named import named_run
    from sft.launch.said import read_tail

    run = named_run(arguments.run)
    path = _log(run, arguments)
    if path is None or not path.exists():
        there = ", ".join(sorted(item.name for item in run.logs.glob("*.log"))) or "none"
        raise UserError(
            "there is no such log yet",
            str(path or run.logs),
            f"logs that are there: {there}",
            exit_code=ExitCode.USAGE,
        )
    print(f"==> {path}", file=sys.stderr)
    size = path.stat().st_size
    for line in read_tail(path, 0, arguments.lines):
        print(line)
    sys.stdout.flush()
    while arguments.follow:
        time.sleep(POLL_SECONDS)
        with path.open("rb") as file:
            file.seek(size)
            added = file.read()
        size += len(added)
        sys.stdout.write(added.decode("utf-8", errors="replace"))
        sys.stdout.flush()
    return int(ExitCode.DONE)


def _log(run: RunDirectory, arguments: argparse.Namespace) -> Path | None:
    from sft.launch.platform import platform
    from sft.launch.queue import read_book

    if arguments.rank is not None:
        return run.rank_log(arguments.rank)
    if arguments.node is not None:
        return run.logs / f"node-{arguments.node}.log"
    if arguments.launcher:
        return run.launcher_log
    book = read_book(run)
    if book.jobs and (own := platform(book.platform).log(run, book.jobs[-1])).exists():
        return own
    return node if (node := run.logs / "node-0.log").exists() else run.rank_log(0)
