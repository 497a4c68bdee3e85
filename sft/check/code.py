"""The Python files that a model brings (trust_remote_code): which there must be, read from its configuration."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.json_file import UnreadableError, read_json

CONFIGURATIONS = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json")
"""Files whose `auto_map` names classes of the model's own."""


def code_references(directory: Path) -> Iterator[tuple[str | None, str]]:
    """Name what the configurations refer to: the repository (None for this one) and the file."""
    for name in CONFIGURATIONS:
        try:
            found = read_json(directory / name) or {}
        except UnreadableError:
            continue
        for reference in _strings(found.get("auto_map")):
            repository, _, path = reference.rpartition("--")
            yield repository or None, f"{path.partition('.')[0]}.py"


def other_repositories(directory: Path) -> list[str]:
    """Name the repositories of the Hub that a model takes its code from, besides its own."""
    return sorted({repository for repository, _ in code_references(directory) if repository})


def missing_code(directory: Path, names: list[str] | None = None) -> list[str]:
    """Name the Python files that are not there, and those that these import from beside them.

    Args:
        names: the files to begin with; those of the directory's own configurations if None.
    """
    if names is None:
        names = [file for repository, file in code_references(directory) if repository is None]
    seen: set[str] = set()
    missing = []
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        if not (directory / name).is_file():
            missing.append(name)
        else:
            names += _imports(directory / name)
    return sorted(missing)


def _imports(file: Path) -> Iterator[str]:
    """Name the files beside one that it imports: `from .other import X`, `from . import other`."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8", errors="replace"))
    except (SyntaxError, ValueError, RecursionError):
        return  # told when it is run
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            for module in modules:
                yield f"{module.replace('.', '/')}.py"


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, (dict, list)):
            waiting += one.values() if isinstance(one, dict) else one
