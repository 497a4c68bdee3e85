"""See, count and prepare the data of a run file, without torch or a GPU.

  sft data show run.yaml             the first rows as they are trained, token for token
  sft data stats run.yaml            rows, tokens, lengths, what is cut or dropped, padding, steps
  sft data prepare run.yaml          tokenize, mask and pack into the cache, so that a launch need not

RUN.yaml comes first; then any of its keys as `--key value`, which win over the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.errors import ExitCode, UserError

if TYPE_CHECKING:
    from sft.config.loader import LoadedRun
    from sft.data.cache import Entry
    from sft.data.stats import PlannedBatch

TAKES_OVERRIDES = True
PREVIEW_ROWS = 512
"""Rows of a split that are prepared, at the least, to show some of them."""
SPLITS = ("train", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands and their arguments."""
    commands = parser.add_subparsers(dest="action", metavar="{show,stats,prepare}", required=True)
    show = _add(commands, "show", "draw rows as they are trained, token for token")
    show.add_argument("-n", type=_positive, default=5, metavar="N", help="show the first N rows (default: 5)")
    show.add_argument(
        "--rows", type=_numbers, metavar="3,17", help="show these rows of the prepared split instead"
    )
    show.add_argument("--split", choices=SPLITS, default="train")
    show.add_argument("--tokens", action="store_true", help="a line for each token instead of running text")
    show.add_argument("--html", type=Path, metavar="FILE", help="write one HTML page, and print its path")
    show.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: on a terminal, not with NO_COLOR",
    )
    stats = _add(commands, "stats", "count rows, tokens, lengths, cuts, drops, padding and steps")
    stats.add_argument("--json", action="store_true", help="print the numbers as JSON, one object a split")
    prepare = _add(commands, "prepare", "put the prepared data into the cache, and print where it lies")
    prepare.add_argument("--strict", action="store_true", help="refuse the data if any row would be dropped")


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, allow_abbrev=False
    )
    parser.add_argument(
        "run_file", metavar="RUN.yaml", type=Path, help="the run file; then --key value overrides"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows, counted from 1")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    """Run one of the three."""
    from sft.config.loader import load_run

    words = [*extra, "--strict_data", "true"] if arguments.action == "prepare" and arguments.strict else extra
    loaded = load_run(arguments.run_file, words)
    for note in loaded.notes:
        _say(f"note: {note}")
    return {"show": _show, "stats": _stats, "prepare": _prepare}[arguments.action](loaded, arguments)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


# --- show


def _show(loaded: LoadedRun, arguments: argparse.Namespace) -> int:
    from sft.data.prepare import find, preview

    entry = find(loaded)
    if entry is not None:
        return _draw(loaded, entry, arguments, whole=True)
    limit = max(PREVIEW_ROWS, 4 * max(arguments.rows or [arguments.n]))
    with preview(loaded, limit, refused=lambda error: _say(f"warning: {error}")) as entry:
        _say(
            f"note: not prepared yet (`sft data prepare`), so rows are taken from the first {limit:,} of each split"
        )
        return _draw(loaded, entry, arguments, whole=False)


def _draw(loaded: LoadedRun, entry: Entry, arguments: argparse.Namespace, *, whole: bool) -> int:
    import os
    import shutil

    from sft.data.look import take_rows
    from sft.data.screen import draw
    from sft.data.settings import tokenizer_files
    from sft.data.spelling import Speller
    from sft.data.view import show_rows
    from sft.plan.joined import joins_rows

    split = arguments.split
    prepared = entry.summary(split).rows if entry.has(split) else 0
    numbers = arguments.rows or range(1, min(arguments.n, prepared) + 1)
    rows = take_rows(entry, split, numbers)
    shown = show_rows(
        rows,
        Speller(tokenizer_files(loaded.config, _say).build()),
        joined=joins_rows(loaded.config),
        pad_to_multiple_of=_multiple(loaded),
    )
    if arguments.html is not None:
        from sft.data.page import render_page

        facts = {
            "run file": str(arguments.run_file),
            "model": str(loaded.config.model.model_name_or_path),
            "split": f"{split}, {prepared:,} prepared rows{'' if whole else ' of the first that were read'}",
        }
        _write(
            arguments.html, render_page(shown, title=f"What {arguments.run_file.name} trains", facts=facts)
        )
        print(arguments.html)
        return 0
    by_itself = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    colour = arguments.color == "always" or (arguments.color == "auto" and by_itself)
    width = max(20, shutil.get_terminal_size((80, 24)).columns)
    _print(draw(shown, width=width, colour=colour, tokens=arguments.tokens))
    return 0


def _print(text: str) -> None:
    """Print text of any language, escaped where the terminal's encoding lacks it."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the page cannot be written: {error.strerror}",
            where=str(path),
            fix="name a file in a directory that is there and that you may write to",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error


def _multiple(loaded: LoadedRun) -> int | None:
    """Return pad_to_multiple_of; `auto` pads on no device that the kit plans for."""
    asked = loaded.config.training.pad_to_multiple_of
    return asked if isinstance(asked, int) else None


# --- stats and prepare


def _stats(loaded: LoadedRun, arguments: argparse.Namespace) -> int:
    import json
    import shutil

    from sft.data.prepare import prepare
    from sft.data.stats import stats_of

    batch = _planned_batch(loaded)
    entry = prepare(loaded)
    found = []
    for split in filter(entry.has, SPLITS):
        prepared = entry.dataset(split).data.column("length").to_numpy()
        planned = batch if split == "train" else None
        found.append(stats_of(split, entry.summary(split), entry.lengths(split), prepared, batch=planned))
    if arguments.json:
        document = {"entry": str(entry.directory), "splits": {one.name: one.to_json() for one in found}}
        print(json.dumps(document, indent=2))
        return 0
    width = max(40, shutil.get_terminal_size((80, 24)).columns)
    _print("\n\n".join("\n".join(one.lines(width)) for one in found) + "\n")
    return 0


def _planned_batch(loaded: LoadedRun) -> PlannedBatch | None:
    """Plan as if the machine had the GPUs that the run file asks for: a login node has none."""
    from dataclasses import replace

    from sft.data.stats import PlannedBatch
    from sft.plan.hardware import detect
    from sft.plan.joined import joins_rows
    from sft.plan.plan import make_plan

    hardware, launch, training = detect(), loaded.config.launch, loaded.config.training
    asked = launch.gpus_per_node or (launch.num_processes or 0) // launch.nodes
    asked = asked or (launch.processes_per_node or 1 if launch.device == "gpu" else 0)
    if asked > hardware.gpus and launch.device != "cpu" and not training.use_cpu:
        hardware = replace(hardware, gpu_names=("unseen",) * asked, gpu_memory_bytes=(0,) * asked)
    try:
        plan = make_plan(loaded, hardware)
    except UserError as error:
        _say(f"note: no plan can be made, so steps and padding are left out: {error.problems[0].what}")
        return None
    if not hardware.gpus and plan.device == "cpu" and launch.device == "auto" and not training.use_cpu:
        processes = "1 process" if plan.processes == 1 else f"{plan.processes} processes"
        _say(
            f"note: no GPU here, so steps are those of {processes}; launch.gpus_per_node says of how many GPUs"
        )
    return PlannedBatch(
        micro_batch=plan.micro_batch,
        accumulation=plan.accumulation,
        processes=plan.processes,
        epochs=training.num_train_epochs,
        max_steps=training.max_steps if training.max_steps > 0 else None,
        drop_last=training.dataloader_drop_last,
        sampling=training.train_sampling_strategy,
        pad_to_multiple_of=_multiple(loaded),
        padding_free=joins_rows(loaded.config),
    )


def _prepare(loaded: LoadedRun, arguments: argparse.Namespace) -> int:
    from sft.data.prepare import prepare

    entry = prepare(loaded)
    for line in entry.lines():
        _say(line)
    print(entry.directory)
    return 0
