"""Set runs side by side: task, metric of the base and of the tuned model, time, adapter.

RUN is the output_dir of a run, or its run file, YAML or task file. The metrics are those of the evaluation after the training
(`eval_metrics` in the run file), the last one listed; `-` stands for what is not there yet.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="output_dir, or a run file")
    parser.add_argument("--json", action="store_true", help="as one JSON object a line")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    import json

    from sft.errors import UserError
    from sft.launch.named import run_directory
    from sft.launch.results import result_of, table

    for word in arguments.runs:
        if not word.exists():
            raise UserError(f"{word} does not exist", fix="name the output_dir of a run, or its run file")
    results = [result_of(str(word), run_directory(word)) for word in arguments.runs]
    lines = [json.dumps(result.to_json()) for result in results] if arguments.json else table(results)
    print("\n".join(lines))
    return 0
