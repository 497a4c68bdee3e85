"""Measure what a run has learned: loss, perplexity and task metrics on its held-out rows, base against tuned.

  sft eval runs/mine
  sft eval runs/mine --tasks exact_match rouge_l mine.py:my_metric --limit 200

RUN is a run directory, its run file or one of its checkpoints. The rows are those that the run held out, as they were
prepared for training. The table goes to stdout, the results also into RUN/_sft/eval.json.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="a run directory, its run file, or one of its checkpoints")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="METRIC",
        help="exact_match, rouge_l, or functions of your own (prediction, reference[, row]) to a number, as "
        "file.py:name or module:name; loss and perplexity come with any [eval_metrics of the run file]",
    )
    parser.add_argument(
        "--split", choices=("test", "train"), default="test", help="of the prepared rows [test]"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="only the first N samples")
    parser.add_argument(
        "--adapter", metavar="DIR", help="another adapter of the same base, in place of the run's"
    )
    parser.add_argument("--base", metavar="PATH", help="the adapter's base model, where it has moved")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write each sample with both answers, a line of JSON each",
    )
    parser.add_argument(
        "--processes", type=_count, metavar="N", help="each with the model, and every N-th sample [one a GPU]"
    )
    parser.add_argument(
        "--batch-size", type=_count, metavar="N", help="samples at once [8 on a GPU, 1 on the CPU]"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=_count,
        metavar="N",
        help="the longest answer [twice the longest reference, from 16 to 512]",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu"), default="auto", help="auto: GPUs where there are any [auto]"
    )


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is no number, counted from 1")
    return int(word)


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    """Evaluate, and print the results."""
    from sft.errors import UserError
    from sft.export.scores import Asked, score
    from sft.plan.hardware import detect
    from sft.terminal import show

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    gpus = 0 if arguments.device == "cpu" else detect().gpus
    processes = arguments.processes or gpus or 1
    if gpus and processes > gpus:
        raise UserError(
            f"{processes} processes do not share {gpus} {'GPU' if gpus == 1 else 'GPUs'}: each holds the model",
            "--processes",
            f"give at most {gpus}, or --device cpu",
        )
    card = score(
        arguments.run,
        Asked(
            tasks=arguments.tasks,
            split=arguments.split,
            limit=arguments.limit,
            processes=processes,
            batch_size=arguments.batch_size or (8 if gpus else 1),
            max_new_tokens=arguments.max_new_tokens,
            device=arguments.device,
            adapter=arguments.adapter,
            base=arguments.base,
            predictions=arguments.predictions,
        ),
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    if arguments.json:
        print(card.to_json(), end="")
    else:
        show(card.lines(), sys.stdout)
    return 0
