"""Write a run as stock files, which train without the kit.

RUN.yaml comes first; then any of its keys as `--key value`, which win over the file:

  sft eject run.yaml --output stock --learning_rate 1e-4

Writes a file for `trl sft --config`, one for accelerate, a script for this machine and one for sbatch, the rows where stock
TRL could not read them, and a README that says what is lost. Prints the directory.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sft.check.run import CheckedRun

TAKES_OVERRIDES = True
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets", "tokenizers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_file", metavar="RUN.yaml", type=Path, help="the run file")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, required=True, help="where the files are written"
    )
    parser.add_argument(
        "--lossy",
        action="store_true",
        help="leave out keys that change what is trained and that stock TRL lacks, instead of refusing them",
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    import shlex

    from sft.errors import ExitCode, UserError
    from sft.launch.eject import Ejected, refusals, refuse
    from sft.launch.eject_data import eject_data, refuse_names
    from sft.launch.eject_place import made_whole, refuse_place
    from sft.launch.eject_readme import readme
    from sft.launch.eject_scripts import stock_files, stock_sbatch_lines

    directory = arguments.output.absolute()
    refuse_names(directory)
    checked = _checked(arguments.run_file, extra)
    loaded, config, plan = checked.loaded, checked.loaded.config, checked.plan
    refuse_place(directory, config.script.dataset_name, replace=arguments.force)
    refuse(loaded)
    problems = refusals(loaded)
    if problems and not arguments.lossy:
        raise UserError.of(problems)
    for line in [*checked.notes, *plan.describe()]:
        print(f"note: {line}", file=sys.stderr)
    for problem in [*checked.warnings, *problems]:
        print(f"warning: {problem}", file=sys.stderr)

    name = config.launch.slurm.job_name or config.training.run_name or config.run.output_dir.name
    log = Path(str(directory).replace("%", "%%")) / "job-%j.log"
    sbatch = stock_sbatch_lines(config.launch, plan, name=name, log=log)
    words = ["sft", "eject", str(arguments.run_file), "--output", str(arguments.output), *extra]
    words += ["--lossy"] if arguments.lossy else []
    with made_whole(directory) as aside:
        data = eject_data(loaded, aside / "data", lambda line: print(line, file=sys.stderr))
        ejected = Ejected(loaded, plan, directory, data, sbatch, shlex.join(words))
        texts = stock_files(ejected) | {"README.md": readme(ejected, _versions())}
        for file, text in texts.items():
            (aside / file).write_text(text, encoding="utf-8")
        for script in ("run.sh", "job.sbatch"):
            (aside / script).chmod(0o755)
    print(f"rows: {data.form}" + (f": {data.why}" if data.why else ""), file=sys.stderr)
    print(directory)
    return int(ExitCode.DONE)


def _checked(path: Path, words: Sequence[str]) -> CheckedRun:
    """Check a run for the machines that it names: a login node has none of their GPUs, and knows no address of theirs."""
    from sft.check.run import check_run
    from sft.config.loader import load_run
    from sft.plan.hardware import detect

    launch, hardware = load_run(path, words).config.launch, detect()
    elsewhere = launch.nodes > 1 or (launch.device != "cpu" and (launch.gpus_per_node or 0) > hardware.gpus)
    return check_run(path, words, hardware, in_batch=elsewhere)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
