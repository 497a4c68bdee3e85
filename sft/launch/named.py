"""The run that a word on the command line means: a run directory, or a run file."""

from __future__ import annotations

from pathlib import Path

from sft.config.loader import load_run
from sft.errors import UserError
from sft.rundir import RunDirectory


def named_run(word: Path) -> RunDirectory:
    """Return the run directory that a word means.

    Raises:
        UserError: nothing has run or been submitted there.
    """
    run = run_directory(word)
    if not run.kit.is_dir():
        raise UserError(
            f"there is no run in {run.output_dir}",
            str(word),
            "name the output_dir of a run, or its run file; `sft status` lists the runs below this directory",
        )
    return run


def run_directory(word: Path) -> RunDirectory:
    """Return the run directory that a word means, whether or not anything has run there."""
    return load_run(word).config.run if word.is_file() else RunDirectory(word.absolute())
