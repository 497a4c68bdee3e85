"""The line of each key of a task file's RUN, read off its source. Nothing is run here.

A mapping may be a literal, `dict(...)`, a name that the file gives to one, or several of them by `**` and `|`; and keys may
be set below it. What comes from elsewhere, of a function or of a neighbour, has the line that brings it in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from sft.config.entry import Place
from sft.errors import Problem

NAME = "RUN"
MAXIMUM_DEPTH = 30
BLOCKS = ("body", "orelse", "finalbody", "handlers")


@dataclass(slots=True)
class TaskLines:
    """Where RUN and its members stand.

    Attributes:
        name: of the file, as it is told.
        found: the place of each member, by the way to it: `("launch", "nodes")`.
        problems: keys that are written twice in one literal: Python keeps the last in silence.
        run_line: where RUN is first given a value; None where nothing in the file does so by that name.
        is_open: whether a name may come by `from x import *`.
    """

    name: str
    found: dict[Place, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    run_line: int | None = None
    is_open: bool = False

    def where(self, place: Place) -> str:
        """Return the place of a member, or of the nearest that holds it."""
        while place:
            if place in self.found:
                return self.found[place]
            place = place[:-1]
        return f"{self.name}:{self.run_line}" if self.run_line else self.name

    def below(self, place: Place) -> dict[Place, str]:
        """Return the places inside a member's value, by the way from there."""
        return {
            key[len(place) :]: where for key, where in self.found.items() if key[: len(place)] == place != key
        }


def read_lines(name: str, tree: ast.Module) -> TaskLines:
    """Find the lines of a task file."""
    lines = TaskLines(name)
    _Reader(lines, list(_statements(tree.body))).read()
    return lines


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when the file does, those of `if` and `try` included."""
    for statement in body:
        yield statement
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for block in BLOCKS:
                for inner in getattr(statement, block, []):
                    yield from _statements(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


class _Reader:
    def __init__(self, lines: TaskLines, statements: list[ast.stmt]) -> None:
        self.lines = lines
        self.statements = statements
        self.named: dict[str, ast.expr] = {}

    def read(self) -> None:
        for statement in self.statements:
            match statement:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        self.assign(target, value)
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    self.assign(target, value)
                case ast.AugAssign(target=ast.Name(id=name), op=ast.BitOr(), value=value) if name == NAME:
                    self.walk(value, ())
                case ast.Expr(
                    value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="update")) as call
                ):
                    if name == NAME:
                        self.arguments(call, ())
                case ast.ImportFrom(names=names):
                    self.lines.is_open |= any(alias.name == "*" for alias in names)
                    if any((alias.asname or alias.name) == NAME for alias in names):
                        self.begin(statement)

    def begin(self, node: ast.stmt | ast.expr) -> None:
        self.lines.run_line = node.lineno
        self.lines.found.clear()

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            if target.id == NAME:
                self.begin(target)
                self.walk(value, ())
            self.named[target.id] = value
        elif (place := _way(target)) is not None:
            self.note(place, target)
            self.walk(value, place)

    def note(self, place: Place, node: ast.expr | ast.keyword) -> None:
        for held in [held for held in self.lines.found if held[: len(place)] == place]:
            del self.lines.found[held]
        self.lines.found[place] = f"{self.lines.name}:{node.lineno}"

    def walk(self, node: ast.expr, place: Place, depth: int = 0) -> None:
        """Note the lines of what a value's expression writes out."""
        if depth > MAXIMUM_DEPTH:
            return
        match node:
            case ast.Dict(keys=keys, values=values):
                self.twice(keys)
                for key, value in zip(keys, values, strict=True):
                    if key is None:
                        self.walk(value, place, depth + 1)
                    elif isinstance(key, ast.Constant) and isinstance(key.value, str):
                        self.note((*place, key.value), key)
                        self.walk(value, (*place, key.value), depth + 1)
            case ast.Call(func=ast.Name(id="dict")):
                self.arguments(node, place, depth)
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                self.walk(left, place, depth + 1)
                self.walk(right, place, depth + 1)
            case ast.Name(id=name) if name in self.named:
                self.walk(self.named[name], place, depth + 1)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                for index, item in enumerate(items):
                    if isinstance(item, ast.Starred):
                        return  # how many it brings is not known
                    self.note((*place, index), item)
                    self.walk(item, (*place, index), depth + 1)

    def arguments(self, call: ast.Call, place: Place, depth: int = 0) -> None:
        for argument in call.args:
            self.walk(argument, place, depth + 1)
        for keyword in call.keywords:
            if keyword.arg is None:
                self.walk(keyword.value, place, depth + 1)
            else:
                self.note((*place, keyword.arg), keyword)
                self.walk(keyword.value, (*place, keyword.arg), depth + 1)

    def twice(self, keys: list[ast.expr | None]) -> None:
        first: dict[str, ast.Constant] = {}
        for key in keys:
            if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                continue
            if first.setdefault(key.value, key) is key:
                continue
            problem = Problem(
                f"{key.value} is set twice, first in line {first[key.value].lineno}",
                f"{self.lines.name}:{key.lineno}",
                "keep one of the two",
            )
            if problem not in self.lines.problems:
                self.lines.problems.append(problem)


def _way(target: ast.expr) -> Place | None:
    """Return the way to what `RUN["launch"]["nodes"] = ...` sets; None for any other target."""
    way: list[str | int] = []
    while isinstance(target, ast.Subscript):
        if not isinstance(target.slice, ast.Constant) or not isinstance(target.slice.value, str):
            return None
        way.insert(0, target.slice.value)
        target = target.value
    return tuple(way) if way and isinstance(target, ast.Name) and target.id == NAME else None
