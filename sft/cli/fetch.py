"""Bring what a run reads to shared storage: model, tokenizer, data set, and the prepared data.

For a login node whose compute nodes have no internet. Things go to the caches that the run itself reads: HF_HOME (or
HF_HUB_CACHE, HF_DATASETS_CACHE) and data_cache (or SFT_CACHE). Asked again it downloads nothing, and asks the Hub for
nothing: --refresh looks for newer commits of what is here. Ctrl-C ends it with 75; the same command goes on. The
directories that the run will read go to stdout.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_file", metavar="RUN.yaml", type=Path, help="the run file; then --key value overrides"
    )
    parser.add_argument(
        "--refresh", action="store_true", help="ask the Hub for newer commits of what is here already"
    )


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    if not sys.stderr.isatty():
        for library in ("HF_HUB", "HF_DATASETS"):  # read when they are imported
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")

    from sft.check.fetch import fetch
    from sft.config.loader import load_run

    signal.signal(signal.SIGINT, _stop)
    loaded = load_run(arguments.run_file, extra)
    for note in loaded.notes:
        _say(f"note: {note}")
    found = fetch(loaded, arguments.run_file, extra, refresh=arguments.refresh, say=_say)
    for line in found.lines:
        _say(line)
    print("\n".join(found.places))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stop(*_: object) -> None:
    """End at once: the library would wait for its threads, and the cache bears any end."""
    from sft.errors import ExitCode

    _say("Stopped. What is whole by now stays; the same command goes on.")
    os._exit(ExitCode.STOPPED)
