"""Read YAML 1.2 with the line of every key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.config.names import Entry
from sft.errors import UserError

NESTED = ("launch", "slurm")
"""Keys whose members are settings of their own, and so have lines of their own."""


def _plain(value: Any) -> Any:
    """Turn ruamel's round-trip types into Python's own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _walk(mapping: Any, prefix: str, name: str, entries: dict[str, Entry]) -> None:
    for key, value in mapping.items():
        where = f"{name}:{mapping.lc.key(key)[0] + 1}"
        if key in NESTED and isinstance(value, Mapping):
            _walk(value, f"{prefix}{key}.", name, entries)
        else:
            entries[f"{prefix}{key}"] = Entry(_plain(value), where)


def read_entries(path: Path, name: str | None = None) -> dict[str, Entry]:
    """Read a mapping from a file; members of `launch:` come out as `launch.nodes`, `launch.slurm.account`.

    Raises:
        UserError: the file is not there, is not YAML, has a key twice, or is no mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    name = name or str(path)
    if not path.is_file():
        raise UserError(
            f"there is no file {path}", fix="check the path; a run file comes first, then --key value"
        )
    reader = YAML(typ="rt")
    try:
        document = reader.load(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"the file is not UTF-8 text (byte {error.start})", where=name, fix="save it as UTF-8"
        ) from None
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1
        raise UserError(
            str(error.problem).split(" with value")[0].replace("found", "there is a"),
            where=f"{name}:{line}",
            fix="keep one of the two",
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise UserError(
            f"this is not YAML: {error.problem}", where=place, fix="mind indents, colons and quotes"
        ) from None
    except YAMLError as error:
        raise UserError(f"this is not YAML: {error}", where=name, fix="save it as plain UTF-8 text") from None
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise UserError("a run file holds `key: value` lines", where=name, fix="see recipes/lora.yaml")
    entries: dict[str, Entry] = {}
    _walk(document, "", name, entries)
    return entries
