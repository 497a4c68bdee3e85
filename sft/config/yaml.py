"""Read YAML 1.2 with the line of every key.

ruamel's composer gives nodes with their lines; what a scalar means is decided here, because the type that a
key declares is known only later (`Entry.text`) and because two keys of one name must be told, not merged.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

from sft.config.entry import Entry, Place
from sft.config.kit import GROUPS
from sft.config.read_text import SCANNER_SLIPS, not_yaml, read_text
from sft.errors import ExitCode, Problem, UserError

HOLDERS = ("launch", *(f"launch.{group}" for group in GROUPS))
"""The keys whose members are keys themselves."""
MAXIMUM_DEPTH = 30
"""Deeper values than this come from an alias that holds itself."""
MAXIMUM_VALUES = 100_000
"""More values than this come from aliases that multiply."""
AGAIN = "save it as a file, RUN.yaml: it is read several times"
TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def read_entries(path: Path) -> tuple[dict[str, Entry], list[Problem]]:
    """Read a mapping from a file; members of `launch:` come out as `launch.nodes`, `launch.slurm.account`.

    Returns:
        The entries, and what is wrong with single ones of them (a key twice, a value that is none).

    Raises:
        UserError: the file is not there, is not YAML, or is no mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode

    name = str(path)
    require_file(path)
    text = read_text(path)
    try:
        node = YAML(typ="rt").compose(text)
    # ValueError and OverflowError: an escape that names no character. SCANNER_SLIPS: text that is far from YAML.
    except (YAMLError, RecursionError, ValueError, OverflowError, *SCANNER_SLIPS) as error:
        raise not_yaml(error, path, text, kind="YAML", fix="mind indents, colons and quotes") from None
    if node is None:
        return {}, []
    if not isinstance(node, MappingNode):
        if node.tag.endswith(":null"):
            return {}, []
        raise UserError("a run file holds `key: value` lines", name, "see docs/run-file.md")
    reader = _Reader(name)
    entries = reader.entries(node)
    return entries, reader.problems


def require_file(path: Path) -> None:
    """Refuse what is no plain file: a run file is read again by whatever comes after, up to the job itself."""
    fix = "give a run file: --config RUN.yaml, or sft launch RUN.yaml"
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if str(path) == "-":
            raise UserError("a run file is not read from standard input", str(path), AGAIN) from None
        raise UserError(f"{path} does not exist", fix=fix) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(
            f"{path} cannot be looked at: {reason}",
            fix="ask the owner of its directory for `chmod a+x`, or copy the file"
            if isinstance(error, PermissionError)
            else fix,
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a directory, not a run file", fix=fix)
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is a pipe or a device, and a run file must be a plain file", fix=AGAIN)


class _Reader:
    """Turn the nodes of one file into entries."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.values = 0

    def entries(self, node: Any, prefix: str = "") -> dict[str, Entry]:
        from ruamel.yaml.nodes import MappingNode

        found: dict[str, Entry] = {}
        for key, (key_node, value_node) in self.members(node).items():
            full = prefix + key
            if full in HOLDERS and isinstance(value_node, MappingNode):
                found.update(self.entries(value_node, full + "."))
            elif full in HOLDERS and value_node.tag.endswith(":null"):
                continue
            else:
                lines: dict[Place, str] = {}
                value, text = self.read(value_node, (), lines)
                found[full] = Entry(value, self.where(key_node), text, lines)
        return found

    def where(self, node: Any) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def members(self, node: Any, depth: int = 0) -> dict[str, tuple[Any, Any]]:
        """Return a mapping's keys with their nodes; `<<` brings in those that the mapping itself lacks."""
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        own: dict[str, tuple[Any, Any]] = {}
        merged: dict[str, tuple[Any, Any]] = {}
        for key_node, value_node in node.value:
            if key_node.tag.endswith(":merge"):
                several = isinstance(value_node, SequenceNode)
                for source in value_node.value if several else [value_node]:
                    if isinstance(source, MappingNode) and depth < MAXIMUM_DEPTH:
                        for key, pair in self.members(source, depth + 1).items():
                            merged.setdefault(key, pair)
                    else:
                        self.problem("<< takes an alias of a mapping", key_node, "write <<: *name")
            elif not isinstance(key_node, ScalarNode):
                self.problem("a key is a list or a mapping", key_node, "write `key: value`")
            elif key_node.value in own:
                first = own[key_node.value][0].start_mark.line + 1
                self.problem(
                    f"{key_node.value} is set twice, first in line {first}", key_node, "keep one of the two"
                )
            else:
                own[key_node.value] = (key_node, value_node)
        return {**merged, **own}

    def problem(self, what: str, node: Any, fix: str) -> None:
        found = Problem(what, self.where(node), fix)
        if found not in self.problems:
            self.problems.append(found)

    def read(self, node: Any, place: Place, lines: dict[Place, str]) -> tuple[Any, Any]:
        """Return a node's value, and the same with every scalar as it was written."""
        from ruamel.yaml.nodes import MappingNode, ScalarNode

        self.values += 1
        if len(place) > MAXIMUM_DEPTH or self.values > MAXIMUM_VALUES:
            raise UserError("the aliases of this file have no end", self.where(node), "write the values out")
        if isinstance(node, ScalarNode):
            return self.scalar(node)
        values: list[Any] = []
        texts: list[Any] = []
        if isinstance(node, MappingNode):
            pairs = self.members(node)
            for key, (key_node, value_node) in pairs.items():
                lines[*place, key] = self.where(key_node)
                value, text = self.read(value_node, (*place, key), lines)
                values.append(value)
                texts.append(text)
            return dict(zip(pairs, values, strict=True)), dict(zip(pairs, texts, strict=True))
        for index, item in enumerate(node.value):
            lines[*place, index] = self.where(item)
            value, text = self.read(item, (*place, index), lines)
            values.append(value)
            texts.append(text)
        return values, texts

    def scalar(self, node: Any) -> tuple[Any, Any]:
        """Read a scalar by YAML 1.2's core schema; dates, and yes and no, are text there."""
        text = str(node.value)
        kind = node.tag.rpartition(":")[2]
        if kind == "null":
            return None, None
        if kind == "bool":
            return TRUTHS.get(text, text), text
        if kind in ("int", "float") and node.style is None:
            return _number(text), text
        if kind not in ("str", "int", "float", "timestamp"):
            self.problem(f"{node.tag} is a tag that a run file does not know", node, "write the plain value")
        return text, text


def _number(text: str) -> int | float | str:
    plain = text.replace("_", "")
    for base, prefix in ((16, "0x"), (8, "0o"), (2, "0b")):
        if plain.lower().startswith(prefix):
            try:
                return int(plain[2:], base)
            except ValueError:
                return text
    if re.fullmatch(r"[-+]?\d+", plain):
        return int(plain) if len(plain) < 100 else text
    try:
        return float(re.sub(r"\.(inf|nan)$", r"\1", plain, flags=re.IGNORECASE))
    except ValueError:
        return text
