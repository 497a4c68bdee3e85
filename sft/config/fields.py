"""What a key declares: its section, its field, its type in words."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic.fields import FieldInfo

from sft.config.kit import GROUPS, LaunchConfig
from sft.config.run import RunConfig, section_of_key

_UNIONS = (typing.Union, type(int | str))


@cache
def field_of(key: str) -> FieldInfo | None:
    """Find the declared field of a key of today, such as `learning_rate` or `launch.slurm.partition`."""
    if key.startswith("launch."):
        name, dot, member = key.removeprefix("launch.").partition(".")
        if name in GROUPS:
            return GROUPS[name].model_fields.get(member) if dot else None
        return None if dot else LaunchConfig.model_fields.get(name)
    section = section_of_key().get(key)
    if section is None:
        return None
    owner: Any = RunConfig.model_fields[section].annotation
    found: FieldInfo | None = owner.model_fields[key]
    return found


def is_key(key: str) -> bool:
    """Whether a name is a key of today."""
    return field_of(key) is not None


@cache
def every_key() -> tuple[str, ...]:
    """List the keys that a run file may hold, `launch.` ones with their prefix."""
    launch = [f"launch.{name}" for name in LaunchConfig.model_fields if name not in GROUPS]
    inner = [f"launch.{group}.{name}" for group, section in GROUPS.items() for name in section.model_fields]
    return (*section_of_key(), *launch, *inner)


@cache
def members(key: str) -> tuple[Any, ...]:
    """Return the alternatives of a key's declared type; `(bool, NoneType)` for `bool | None`."""
    found = field_of(key)
    if found is None:
        return ()
    annotation = found.annotation
    return typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else (annotation,)


def takes(key: str, kind: type) -> bool:
    """Whether a key's type has this alternative."""
    return any(member is kind or typing.get_origin(member) is kind for member in members(key))


def is_text(key: str) -> bool:
    """Whether a key holds text, or a list or mapping of texts, and nothing else."""
    texts: tuple[Any, ...] = (str, list[str], dict[str, str], type(None))
    return is_key(key) and all(member in texts for member in members(key))


def choices(key: str) -> list[str]:
    """Return the permitted values of a key that has a closed list of them."""
    found: list[str] = []
    for member in members(key):
        if typing.get_origin(member) is typing.Literal:
            found += [str(value) for value in typing.get_args(member)]
        elif isinstance(member, type) and hasattr(member, "__members__"):
            found += [str(item.value) for item in member.__members__.values()]
    return found


def type_in_words(key: str) -> str:
    """Say what a key takes: `a whole number`, `text or a list`, `one of no, steps, epoch`."""
    permitted = choices(key)
    told = [f"one of {', '.join(permitted)}"] if permitted and not takes(key, str) else []
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    for member in members(key):
        origin = typing.get_origin(member) or member
        if origin is list:
            told.append("a list")
        elif origin is dict:
            told.append("a mapping")
        elif member in words:
            told.append(words[member])
        elif typing.get_origin(member) is typing.Annotated:
            told.append(words[typing.get_args(member)[0]])
    return " or ".join(dict.fromkeys(told))


def nearest(word: str, names: Sequence[str]) -> str | None:
    """Return the name that was probably meant: one that goes on as the word does, or else a similar one."""
    longer = [name for name in names if word and name.startswith(f"{word}_")]
    if longer:
        return longer[0]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return close[0] if close else None
