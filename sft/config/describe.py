"""The help of our own keys: the docstring below each field, read from the source only when somebody asks for it.

pydantic would read them for every command (`use_attribute_docstrings`), which takes longer than reading a run file.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache

from sft.config.fields import field_of
from sft.config.kit import GROUPS, KitConfig, LaunchConfig
from sft.config.section import Section

OURS: tuple[type[Section], ...] = (KitConfig, LaunchConfig, *GROUPS.values())


@cache
def describe() -> None:
    """Give every field of our own sections its docstring as its description, for the JSON Schema and for people."""
    for section in OURS:
        for name, text in _docstrings(section).items():
            section.model_fields[name].description = text
    for section in reversed(OURS):  # what LaunchConfig holds comes first
        section.model_rebuild(force=True)


def description_of(key: str) -> str:
    """Return what a key is for, on one line; nothing where the library says nothing."""
    describe()
    found = field_of(key)
    return " ".join((found.description or "").split()) if found else ""


def _docstrings(section: type[Section]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            found[field.target.id] = inspect.cleandoc(text.value.value)
    return found
