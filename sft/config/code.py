"""A Python file of the user's, run as a module of its own: once in a process, whoever asks for it and by whichever path.

What lies beside the file can be imported by it. What is installed comes first, so that a neighbour called `json.py` stands in
nobody's way.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_reached: list[str] = []
"""The directories whose files can be imported, the newest first."""


def module_of(path: Path) -> ModuleType:
    """Return the module of a file, which is run unless it was already.

    What it prints goes to stderr: stdout carries what a command answers.

    Raises:
        BaseException: whatever the file raises; it is not remembered as run then.
    """
    real = path.resolve()
    name = f"user_{path.stem}_{hashlib.sha256(str(real).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _reach(real.parent)
    sys.modules[name] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _reach(directory: Path) -> None:
    """Let the files of a directory be imported, before those beside earlier files."""
    text = str(directory)
    if _reached[:1] == [text]:
        return
    earlier = [other for other in _reached if other != text]
    if earlier:
        # Two directories may each have a `common.py`: the one that was imported there is not the one that is meant here.
        for name in {path.stem for path in directory.iterdir()} & set(sys.modules):
            file = getattr(sys.modules[name], "__file__", None)
            if any(file in (f"{other}/{name}.py", f"{other}/{name}/__init__.py") for other in earlier):
                for part in [part for part in sys.modules if part.partition(".")[0] == name]:
                    del sys.modules[part]
    if text in sys.path and text not in _reached:
        return  # by PYTHONPATH
    sys.path[:] = [entry for entry in sys.path if entry not in _reached]
    _reached[:] = [text, *earlier]
    sys.path += _reached
    importlib.invalidate_caches()


def place_in(error: BaseException, path: Path) -> str | None:
    """Return the innermost line of a file, or of a neighbour that it imports, that an error came from."""
    if isinstance(error, SyntaxError) and error.filename and _is_beside(Path(error.filename), path):
        return f"{_told(Path(error.filename), path)}:{error.lineno}"
    steps = [
        step for step in traceback.extract_tb(error.__traceback__) if _is_beside(Path(step.filename), path)
    ]
    return f"{_told(Path(steps[-1].filename), path)}:{steps[-1].lineno}" if steps else None


def _is_beside(file: Path, path: Path) -> bool:
    # Python's own frames have names like <frozen importlib>.
    return not str(file).startswith("<") and file.resolve().parent == path.resolve().parent


def _told(file: Path, path: Path) -> str:
    """Spell a file of the directory as the user has spelled the one that was asked for."""
    return str(path if file.resolve() == path.resolve() else path.with_name(file.name))


def with_neighbours(path: Path) -> list[Path]:
    """List a file and those beside it that it imports, directly or through one another."""
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found[file] = None
        waiting += [beside for name in _imported(file) if (beside := file.with_name(f"{name}.py")).is_file()]
    return [path, *sorted(file for file in found if file != path)]


def _imported(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # told when it is run
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
