"""Functions and classes from the user's own files: `file.py:name` or `module:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

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
        if source.endswith(".py"):
            path = Path(source)
            if not path.is_file():
                raise UserError(f"there is no file {source}", where=key, fix="check the path")
            module_name = f"user_{path.stem}"
            spec = importlib.util.spec_from_file_location(module_name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(source)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{source} cannot be imported: {type(error).__name__}: {error}", where=key, fix="mend the file"
        ) from error
    if not hasattr(module, name):
        names = ", ".join(item for item in vars(module) if not item.startswith("_")) or "nothing"
        raise UserError(f"{source} has no {name}", where=key, fix=f"it has: {names}")
    return getattr(module, name)
