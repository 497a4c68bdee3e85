"""Read a YAML or JSON file of the user's as a mapping that knows the line of every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.config.read_text import SCANNER_SLIPS, not_yaml, read_text
from sft.errors import UserError


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was read. `root` holds plain values within ruamel's mappings, which keep their lines."""

    path: Path
    root: Mapping[str, Any]

    def where(self, keys: tuple[str, ...] = ()) -> str:
        """Say where a key stands, as `file:line`; the file alone where the line is not known."""
        holder: Any = self.root
        line: int | None = None
        for key in keys:
            if not isinstance(holder, Mapping) or key not in holder:
                break
            marks = getattr(holder, "lc", None)
            line = marks.key(key)[0] + 1 if marks is not None else None
            holder = holder[key]
        return str(self.path) if line is None else f"{self.path}:{line}"


def plain(value: Any) -> Any:
    """Turn ruamel's types into Python's own."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), value)


def read_document(path: Path) -> Document:
    """Read a mapping from YAML 1.2, of which JSON is a part.

    Raises:
        UserError: there is no such file, it is no YAML or JSON, has a key twice, or is no mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import YAMLError

    kind = "JSON" if path.suffix == ".json" else "YAML"
    text = read_text(path)
    try:
        # Tabs indent some JSON files; YAML takes them nowhere at the start of a line.
        root = YAML(typ="rt").load(text.replace("\t", "  ") if kind == "JSON" else text)
    except DuplicateKeyError as error:
        told = str(error.problem).split(" with value")[0].replace("found", "there is a")
        raise UserError(told, f"{path}:{error.problem_mark.line + 1}", "keep one of the two") from None
    except (YAMLError, RecursionError, ValueError, OverflowError, *SCANNER_SLIPS) as error:
        raise not_yaml(error, path, text, kind=kind, fix="mind indents, commas and quotes") from None
    if not isinstance(root, Mapping):
        raise UserError("the file holds no `key: value` lines", str(path), "see docs/accelerate.md")
    return Document(path, root)
