"""Read `--learning_rate 2e-4 --packing --push_to_hub false` as entries of a run file."""

from __future__ import annotations

import json
import typing
from typing import Any

from pydantic.fields import FieldInfo

from sft.config.kit import LaunchConfig, SlurmConfig
from sft.config.names import CONVERTED, RENAMED, RETIRED, Entry
from sft.config.run import RunConfig, section_of_key
from sft.errors import Problem, UserError


def field_of(key: str) -> FieldInfo | None:
    """Find the declared field of a key such as `learning_rate` or `launch.slurm.partition`."""
    if key.startswith("launch.slurm."):
        return SlurmConfig.model_fields.get(key.removeprefix("launch.slurm."))
    if key.startswith("launch."):
        return LaunchConfig.model_fields.get(key.removeprefix("launch."))
    section = section_of_key().get(key)
    if section is None:
        return None
    owner: Any = RunConfig.model_fields[section].annotation
    found: FieldInfo | None = owner.model_fields[key]
    return found


def members(key: str) -> tuple[Any, ...]:
    """Return the alternatives of a key's declared type; `(bool, NoneType)` for `bool | None`."""
    found = field_of(RENAMED.get(key, key))
    if found is None:
        return ()
    annotation = found.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return (annotation,)
    return typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else (annotation,)


_UNIONS = (typing.Union, type(int | str))
_TRUTHS = frozenset(("true", "false", "yes", "no", "on", "off", "1", "0", "none", "null"))


def _takes(key: str, kind: type) -> bool:
    return any(member is kind or typing.get_origin(member) is kind for member in members(key))


def coerce_text(key: str, text: str) -> Any:
    """Read one word of the command line (or a string of the file) by the type that the key declares."""
    alternatives = members(key)
    if text.lower() in ("none", "null") and type(None) in alternatives and str not in alternatives:
        return None
    if text.startswith(("{", "[")) and (_takes(key, dict) or _takes(key, list)):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return text


def parse_flags(words: list[str]) -> dict[str, Entry]:
    """Read the words after the run file.

    A boolean stands alone or with a value, `--no_packing` is `--packing false`, a list takes several words.

    Raises:
        UserError: a word that belongs to no flag, or a flag that lacks its value.
    """
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("--") or word == "--":
            problems.append(
                Problem(f"unexpected word {word!r}", fix="a run file comes first, then --key value")
            )
            continue
        key, equals, inline = word[2:].partition("=")
        key = key.replace("-", "_")
        values = [inline] if equals else []
        while not equals and position < len(words) and not words[position].startswith("--"):
            values.append(words[position])
            position += 1
        boolean = _takes(key, bool) or key in CONVERTED or key in RETIRED
        if key.startswith("no_") and field_of(key) is None and key not in RENAMED and _takes(key[3:], bool):
            key, values = key[3:], ["false"]
        if (
            boolean
            and not _takes(key, str)
            and values
            and values[0].lower() not in _TRUTHS
            and key not in CONVERTED
        ):
            problems.append(
                Problem(f"--{key} is true or false, not {values[0]!r}", f"--{key}", f"--{key} true")
            )
            continue
        if not values and not boolean and field_of(RENAMED.get(key, key)) is not None:
            problems.append(Problem(f"--{key} needs a value", f"--{key}", f"--{key} VALUE"))
            continue
        if len(values) > 1 and not _takes(key, list):
            problems.append(
                Problem(f"--{key} takes one value, not {len(values)}: {' '.join(values)}", f"--{key}")
            )
            continue
        read = [coerce_text(key, value) for value in values]
        value: Any = True if not read else read[0] if len(read) == 1 else read
        entries[key] = Entry(value, f"--{key}")
    if problems:
        raise UserError.of(problems)
    return entries
