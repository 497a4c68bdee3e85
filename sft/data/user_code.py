"""Functions and classes from the user's own files: `file.py:name` or `module:name`."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from sft.config.code import module_of, place_in
from sft.errors import UserError


def load_object(reference: str, key: str) -> Any:
    """Import what a reference names.

    Raises:
        UserError: the reference has no name in it, the file is not there or fails, or has no such name.
    """
    source, colon, name = reference.rpartition(":")
    if not colon or not source or not name:
        raise UserError(f"{reference!r} names nothing", where=key, fix="write file.py:name or module:name")
    try:
        module = _run_file(Path(source), key) if source.endswith(".py") else importlib.import_module(source)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{source} cannot be imported: {type(error).__name__}: {error}",
            where=place_in(error, Path(source)) or key,
            fix="mend the file",
        ) from error
    if not hasattr(module, name):
        names = ", ".join(item for item in vars(module) if not item.startswith("_")) or "nothing"
        raise UserError(f"{source} has no {name}", where=key, fix=f"it has: {names}")
    return getattr(module, name)


def _run_file(path: Path, key: str) -> ModuleType:
    if not path.is_file():
        raise UserError(f"there is no file {path}", where=key, fix="check the path")
    return module_of(path)


def failing_line(error: Exception, function: Any, reference: str) -> str | None:
    """Return the last line of the function's own file that its error passed through."""
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    source = reference.rpartition(":")[0]
    line = _last_line(error, Path(code.co_filename))
    return f"{source if source.endswith('.py') else code.co_filename}:{line}" if line else None


def _last_line(error: Exception, path: Path) -> int | None:
    steps = traceback.extract_tb(error.__traceback__)
    lines = [step.lineno for step in steps if Path(step.filename).resolve() == path.resolve()]
    return lines[-1] if lines else None
