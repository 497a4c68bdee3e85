"""Read a task file: a Python file whose `RUN` holds the keys of a run file, and the functions that they name.

    def to_chat(row): ...

    RUN = {"model_name_or_path": "...", "dataset_name": "...", "dataset_mapping": to_chat, "output_dir": "..."}

A function of the file becomes the reference `/path/to/file.py:to_chat`, by which the ranks import it. Everything else is what
YAML could have said: entries with their places, for the same loader. The file is run once in a process, without torch unless it
imports it itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path, PurePath
from types import FunctionType, ModuleType
from typing import Any

from sft.config.code import module_of, place_in
from sft.config.entry import Entry, Place
from sft.config.expand import PATH_KEYS, escape
from sft.config.old_names import RENAMED
from sft.config.read_text import read_text
from sft.config.task_lines import MAXIMUM_DEPTH, NAME, TaskLines, read_lines
from sft.config.yaml import HOLDERS, require_file
from sft.errors import Problem, UserError

SUFFIX = ".py"
EXAMPLE = f'write {NAME} = {{"model_name_or_path": ..., ...}} at the top of the file: see docs/tasks.md'
SLOW = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets")
"""Libraries that take seconds to import."""


def is_task(path: Path) -> bool:
    """Whether a run file is a task file."""
    return path.suffix == SUFFIX


def read_task(path: Path) -> tuple[dict[str, Entry], list[Problem], list[str]]:
    """Run a task file and return the entries of its RUN, what is wrong with single ones, and what there is to say.

    Raises:
        UserError: the file is not there, is not Python, fails, or has no RUN that is a mapping.
    """
    require_file(path)
    name = str(path)
    tree = _parsed(path)
    lines = read_lines(name, tree)
    if lines.run_line is None and not lines.is_open:
        # Not run then: it may be a script that does something.
        raise UserError(f"this task file has no {NAME}", name, EXAMPLE)
    module = _run(path)
    if not hasattr(module, NAME):
        raise UserError(f"this task file has no {NAME}", name, EXAMPLE)
    run = getattr(module, NAME)
    if not isinstance(run, dict):
        raise UserError(f"{NAME} is {_kind(run)}, not a dict of keys", lines.where(()), EXAMPLE)
    reader = _Reader(path, module, lines)
    entries = reader.entries(run, ())
    return entries, reader.problems, list(_slow_imports(name, tree))


def _parsed(path: Path) -> ast.Module:
    text = read_text(path)
    try:
        return ast.parse(text)
    except SyntaxError as error:
        where = f"{path}:{error.lineno}" if error.lineno else str(path)
        raise UserError(
            f"this is not Python: {error.msg}", where, "mind brackets, quotes and indents"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        fix = "save it as plain text, not nested too deep"
        raise UserError(f"this is not Python: {error or type(error).__name__}", str(path), fix) from None


def _run(path: Path) -> ModuleType:
    try:
        return module_of(path)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        where = place_in(error, path) or str(path)
        if isinstance(error, SystemExit):
            what = "the file ends the process as it is read"
            raise UserError(what, where, 'put what is a script under `if __name__ == "__main__":`') from None
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UserError(f"the file fails as it is read: {told}", where, "mend the file") from error


def _slow_imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Say which imports every command that reads the file waits for."""
    for node in tree.body:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        for module in dict.fromkeys(module.partition(".")[0] for module in modules):
            if module in SLOW:
                yield (
                    f"{name}:{node.lineno} imports {module}, which every command that reads the file waits for; import it"
                    " in the function that needs it, or keep that in a file of its own and name it as file.py:name"
                )


class _Reader:
    """Turn the values of one RUN into entries."""

    def __init__(self, path: Path, module: ModuleType, lines: TaskLines) -> None:
        self.path = path
        self.module = module
        self.lines = lines
        self.problems = list(lines.problems)
        self.base: Place = ()
        """The way to the value that is being read."""

    def entries(self, mapping: dict[Any, Any], place: Place, prefix: str = "") -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for key, value in mapping.items():
            if not isinstance(key, str):
                self.problem(f"a key of {prefix.rstrip('.') or NAME} is {_kind(key)}, not text", place)
                continue
            full, inside = prefix + key, (*place, key)
            if full in HOLDERS and isinstance(value, dict):
                found.update(self.entries(value, inside, f"{full}."))
            elif full not in HOLDERS or value is not None:
                self.base, told = inside, len(self.problems)
                plain, text = self.read(full, value, inside)
                if len(self.problems) == told:
                    found[full] = Entry(plain, self.lines.where(inside), text, self.lines.below(inside))
        return found

    def problem(self, what: str, place: Place, fix: str = "write it as text, in quotes") -> None:
        self.problems.append(Problem(what, self.lines.where(place), fix))

    def read(self, key: str, value: Any, place: Place) -> tuple[Any, Any]:
        """Return a value as YAML has it, and the same with every scalar as YAML would write it."""
        if value is None:
            return None, None
        if isinstance(value, bool):
            return value, "true" if value else "false"
        if isinstance(value, int):
            return int(value), str(int(value))
        if isinstance(value, float):
            return float(value), repr(float(value))
        if isinstance(value, (str, PurePath)):
            text = str.__str__(value) if isinstance(value, str) else str(value)
            return text, text
        if isinstance(value, (dict, list, tuple)):
            if len(place) > MAXIMUM_DEPTH:
                raise UserError(f"{key} holds itself", self.lines.where(place), "write the values out")
            return self.nested(key, value, place)
        if callable(value):
            reference = self.reference(key, value, place)
            return reference, reference
        fix = "give text, a number, True, False or None, a list or a mapping of them, or a function of this file"
        self.problem(f"{self.spelled(key, place)} is {_kind(value)}, which no run file holds", place, fix)
        return None, None

    def nested(
        self, key: str, value: dict[Any, Any] | list[Any] | tuple[Any, ...], place: Place
    ) -> tuple[Any, Any]:
        if not isinstance(value, dict):
            items = [self.read(key, item, (*place, index)) for index, item in enumerate(value)]
            return [item for item, _ in items], [text for _, text in items]
        for name in [name for name in value if not isinstance(name, str)]:
            self.problem(f"a key of {self.spelled(key, place)} is {_kind(name)}, not text", place)
        named = {name: item for name, item in value.items() if isinstance(name, str)}
        read = {name: self.read(key, item, (*place, name)) for name, item in named.items()}
        return {name: item for name, (item, _) in read.items()}, {
            name: text for name, (_, text) in read.items()
        }

    def spelled(self, key: str, place: Place) -> str:
        """Name a member of a key's value as the loader does: `datasets[0].path`."""
        inside = place[len(self.base) :]
        return key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inside)

    def reference(self, key: str, value: Any, place: Place) -> str | None:
        """Return `file.py:name` of a function or class, by a name that the file has for it."""
        names = [name for name, held in vars(self.module).items() if held is value]
        own = getattr(value, "__name__", None)
        if not names:
            called = (
                f"the function {own}"
                if isinstance(value, FunctionType) and own != "<lambda>"
                else _kind(value)
            )
            self.problem(
                f"{self.spelled(key, place)} is {called}, which has no name at the top of the file",
                place,
                "define it there with `def`: the processes that use it import it by its name",
            )
            return None
        text = f"{self.path.absolute()}:{own if own in names else names[0]}"
        # What is a path of the user's own is expanded later; this one is as it is.
        return str(escape(text)) if RENAMED.get(key, key) in PATH_KEYS else text


def _kind(value: Any) -> str:
    """Say what a value is, with its article."""
    if getattr(value, "__name__", None) == "<lambda>":
        return "a lambda"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
