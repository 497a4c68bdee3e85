"""Read a YAML or JSON file of the user's as a mapping that knows the line of every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.errors import ExitCode, UserError


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
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the file is not UTF-8 text (byte {error.start})", str(path), "save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(
            f"the file cannot be read: {error.strerror}",
            str(path),
            "check the path and its permissions",
            exit_code=ExitCode.ENVIRONMENT if path.exists() else ExitCode.USAGE,
        ) from None
    try:
        # Tabs indent some JSON files; YAML takes them nowhere at the start of a line.
        root = YAML(typ="rt").load(text.replace("\t", "  ") if kind == "JSON" else text)
    except DuplicateKeyError as error:
        told = str(error.problem).split(" with value")[0].replace("found", "there is a")
        raise UserError(told, f"{path}:{error.problem_mark.line + 1}", "keep one of the two") from None
    except MarkedYAMLError as error:
        place = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)
        raise UserError(
            f"this is not {kind}: {error.problem}", place, "mind indents, commas and quotes"
        ) from None
    except (YAMLError, RecursionError, ValueError) as error:
        told = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"this is not {kind}: {told}", str(path), "save it as plain UTF-8 text") from None
    if not isinstance(root, Mapping):
        raise UserError("the file holds no `key: value` lines", str(path), "see docs/accelerate.md")
    return Document(path, root)
