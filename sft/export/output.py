"""Write a directory whole or not at all, where it may be written.

Knows nothing of models; imports no torch.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sft.errors import ExitCode, UserError


def refuse_output(output: Path, *, forbidden: Iterable[Path], overwrite: bool) -> Path:
    """Return the resolved output directory, or say why it cannot be written.

    Args:
        forbidden: resolved directories that are read from, or that hold what is read.
    Raises:
        UserError: the output is one of those or holds one, is a file, or is full without `overwrite`.
    """
    resolved = output.expanduser().resolve()
    for place in forbidden:
        if resolved == place:
            raise UserError(
                f"the merged model cannot go into {output}: it is read from there",
                f"{output} is {place}",
                "name a new directory: beside an adapter_config.json the adapter would be applied a second time on load",
            )
        if resolved in place.parents:
            raise UserError(
                f"the merged model cannot replace {output}: what is merged lies inside it",
                f"{place}",
                "name a new directory",
            )
    if resolved.exists() and not resolved.is_dir():
        raise UserError(f"the output {output} is a file", fix="name a directory")
    if resolved.is_dir() and any(resolved.iterdir()):
        if not overwrite:
            raise UserError(
                f"the output {output} is not empty",
                fix="name a new directory, or replace it with --overwrite",
            )
        names = {path.name for path in resolved.iterdir()}
        if "config.json" not in names or names & {"adapter_config.json", "_sft"}:
            raise UserError(
                f"--overwrite would delete {output}, which does not look like a merged model",
                "a merged model has a config.json, and neither adapter_config.json nor _sft",
                "name a new directory",
            )
    return resolved


def require_disk(output: Path, needed_bytes: int) -> None:
    """Raise a UserError where the file system of `output` has less than `needed_bytes` free."""
    place = next(path for path in (output, *output.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise UserError(
            f"the merged model needs {gib(needed_bytes)} of disk, and {gib(free)} is free",
            str(place),
            "free some space, or write to another file system with --output",
            exit_code=ExitCode.ENVIRONMENT,
        )


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Give a new directory beside `output` that takes its place when the block ends well.

    When it does not, nothing stays. What a killed merge of this machine left there is removed first.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _sweep(output)
        partial = _aside(output, "merging")
        partial.mkdir()
    except OSError as error:
        raise UserError(
            f"the output cannot be written: {error.strerror}",
            str(error.filename),
            "name another directory with --output",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error
    try:
        yield partial
        _make_readable(partial)
        if output.exists():
            replaced = _aside(output, "replaced")
            output.rename(replaced)
            partial.rename(output)
            shutil.rmtree(replaced)
        else:
            partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _aside(output: Path, why: str) -> Path:
    return output.with_name(f".{output.name}.{why}-{socket.gethostname()}-{os.getpid()}")


def _sweep(output: Path) -> None:
    pattern = rf"\.{re.escape(output.name)}\.(merging|replaced)-{re.escape(socket.gethostname())}-(\d+)"
    for path in output.parent.iterdir():
        left = re.fullmatch(pattern, path.name)
        if left and not Path(f"/proc/{left[2]}").exists():
            shutil.rmtree(path)


def _make_readable(directory: Path) -> None:
    """Give files the mode that the umask asks for (safetensors writes 0600), and push them to disk."""
    umask = os.umask(0)
    os.umask(umask)
    for path in directory.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def gib(count: int) -> str:
    """Spell bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
