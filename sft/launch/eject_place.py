"""Where ejected files are put: all of them or none, and never over anything that `sft eject` did not write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft.errors import ExitCode, UserError

NAMES = (
    "trl_sft.yaml", "accelerate.yaml", "deepspeed.json", "chat_template.jinja", "run.sh", "job.sbatch", "README.md",
    "data/train.jsonl", "data/eval.jsonl", "data/train.parquet", "data/eval.parquet",
)  # fmt: skip
"""All that may be written."""
WITNESS = "# Written by: sft eject "


def refuse_place(directory: Path, dataset_name: str | None, *, replace: bool) -> None:
    """Refuse to write where something else lies.

    Raises:
        UserError: the directory holds other files, or the rows of the run.
    """
    if dataset_name is not None and Path(dataset_name).exists():
        rows = Path(dataset_name).resolve()
        if rows == directory.resolve() or directory.resolve() in rows.parents:
            what = f"the rows of the run lie in {directory}, which is written anew"
            raise UserError(what, "--output", "name another directory")
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not _is_ejected(directory):
        raise UserError(
            f"{directory} is there, and sft eject did not write it", "--output", "name another directory"
        )
    if not replace:
        raise UserError(
            f"{directory} holds ejected files already", "--output", "name another directory, or say --force"
        )


def _is_ejected(directory: Path) -> bool:
    try:
        return WITNESS in (directory / "trl_sft.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


@contextmanager
def made_whole(directory: Path) -> Iterator[Path]:
    """Give a directory to write into, and put what it holds in its place when the block ends well.

    Raises:
        UserError: it cannot be written.
    """
    # No dot at the front: `datasets` looks for no files in hidden directories.
    aside = directory.with_name(f"{directory.name}.writing-{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        yield aside
        directory.mkdir(exist_ok=True)
        for name in NAMES:
            new, old = aside / name, directory / name
            old.unlink(missing_ok=True)
            if new.exists():
                old.parent.mkdir(exist_ok=True)
                new.replace(old)
    except OSError as error:
        raise UserError(
            f"the files cannot be written: {error.strerror}",
            str(error.filename or directory),
            "name a directory of yours that has room",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
