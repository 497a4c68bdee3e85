"""The rules that hold the house together: who imports whom, the torch line, the length of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import sft
from sft.cli.main import COMMANDS

PACKAGE = Path(sft.__file__).parent
BASE = {
    "deadline",
    "errors",
    "events",
    "extras",
    "files",
    "json_file",
    "machine",
    "mounts",
    "parent",
    "rundir",
    "units",
    "__init__",
}
"""Modules at the top of the package, which every room may import and which import no room."""

ARROWS: dict[str, set[str]] = {
    "config": set(),
    "data": {"config"},
    "plan": {"data", "config"},
    "check": {"plan", "data", "config", "checkpoint", "hub", "launch", "report"},
    "launch": {"plan", "data", "config", "report", "hub", "checkpoint"},
    "hub": {"config", "checkpoint"},
    "report": {"config"},
    "flow": {"config", "check", "checkpoint", "hub", "launch", "quickstart", "report"},
    "quickstart": {"config", "data", "plan"},
    "checkpoint": {"config"},
    "export": {"config", "data", "checkpoint"},
    "training": {"checkpoint", "data", "plan", "config", "hub", "report"},
}
"""Room -> the rooms that it may import; `cli` may import everything, and nothing imports `cli`."""

HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed")
ABOVE = ("config", "data", "plan", "check", "launch", "hub", "report", "flow", "cli")
BELOW = {"sft.config.generate"}
"""Modules of rooms above the torch line that lie below it, and say so in their docstring."""

LONGEST = 320


def _files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _imports(path: Path) -> list[tuple[str, bool]]:
    """List the modules that a file imports, and whether each import runs when the file is imported."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, at_top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, at_top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path} has a relative import"
                found.append((str(child.module), at_top))
                found.extend((f"{child.module}.{alias.name}", at_top) for alias in child.names)
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            if typing_only and isinstance(child, ast.If):
                for branch in child.orelse:
                    visit(ast.Module([branch], []), at_top)
                continue
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            visit(child, at_top and not inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def _rooms_imported(path: Path) -> set[str]:
    parts = [name.split(".") for name, _ in _imports(path) if name.startswith("sft.")]
    return {part[1] for part in parts if (PACKAGE / part[1]).exists() or (PACKAGE / f"{part[1]}.py").exists()}


@pytest.mark.parametrize(
    "room", sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    if room == "cli":
        return
    assert room in ARROWS, f"a new room: say in ARROWS what {room} may import"
    allowed = ARROWS[room] | BASE | {room}
    wrong = {
        (_module(path), other)
        for path in _files()
        if path.relative_to(PACKAGE).parts[0] == room
        for other in _rooms_imported(path) - allowed
    }
    assert wrong == set()


def test_the_arrows_point_one_way() -> None:
    def reach(room: str, seen: set[str]) -> set[str]:
        for other in ARROWS.get(room, set()) - seen:
            seen |= {other} | reach(other, seen | {other})
        return seen

    assert [room for room in ARROWS if room in reach(room, set())] == []


def test_nothing_imports_the_command_line_and_the_base_imports_no_room() -> None:
    for path in _files():
        room = path.relative_to(PACKAGE).parts[0]
        if room != "cli":
            assert "cli" not in _rooms_imported(path), path
        if room.endswith(".py"):
            assert _rooms_imported(path) <= BASE, path


def _modules_above() -> list[str]:
    rooms = {*ABOVE, *(f"{name}.py" for name in BASE)}
    above = [path for path in _files() if path.relative_to(PACKAGE).parts[0] in rooms]
    return [_module(path) for path in above if _module(path) not in BELOW]


def test_nothing_above_the_torch_line_loads_torch() -> None:
    """Really imported, all in one process: what a library drags in counts too."""
    code = f"import importlib, sys\nfor name in {_modules_above()!r}:\n    importlib.import_module(name)\n"
    code += f"    heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n    assert not heavy, (name, heavy)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_heavy_import_above_the_line_stands_inside_a_function() -> None:
    """The lazy door: also where the import at the top would happen to be cheap."""
    wrong = [
        (_module(path), name)
        for path in _files()
        if _module(path) in _modules_above()
        for name, at_top in _imports(path)
        if at_top and name.split(".")[0] in HEAVY
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_help_loads_nothing_but_the_standard_library(words: list[str]) -> None:
    code = f"""
import sys
from sft.cli.main import main
try:
    main({words!r})
except SystemExit as end:
    assert end.code == 0
outside = sorted({{*{HEAVY!r}, "pydantic", "ruamel", "numpy", "rich", "jinja2", "datasets", "questionary"}} & set(sys.modules))
assert not outside, outside
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sft " if words == ["--version"] else "usage: sft")


@pytest.mark.parametrize("path", _files(), ids=lambda path: _module(path))
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name != "library.py":
        assert text.count("\n") <= LONGEST, f"{path} is longer than {LONGEST} lines: split it by purpose"
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
