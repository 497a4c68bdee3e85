"""Read a text file of the user's that should be YAML, and say in which line it is none."""

from __future__ import annotations

from pathlib import Path

from sft.errors import ExitCode, UserError

SCANNER_SLIPS = (AttributeError, IndexError, KeyError, TypeError, AssertionError, NotImplementedError)
"""What ruamel's scanner stumbles over, in text that is far from YAML."""


def read_text(path: Path) -> str:
    """Read UTF-8 text, with a mark at its beginning or without.

    Raises:
        UserError: it cannot be opened, or is no such text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the file cannot be read: {error.strerror}",
            str(path),
            f"`chmod a+r {path}`, or ask its owner for it"
            if isinstance(error, PermissionError)
            else "check the path",
            exit_code=ExitCode.USAGE if isinstance(error, FileNotFoundError) else ExitCode.ENVIRONMENT,
        ) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(
            f"the file is not UTF-8 text (byte {error.start})",
            f"{path}:{line}",
            "save it as UTF-8",
        ) from None


def not_yaml(error: Exception, path: Path, text: str, *, kind: str, fix: str) -> UserError:
    """Turn what ruamel raises into a problem of the user's.

    Args:
        kind: what the file should be: YAML or JSON.
        fix: what to mind, where the line of a mistake is known.
    """
    from ruamel.yaml.composer import ComposerError
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        if isinstance(error, ComposerError) and "another document" in str(error.problem):
            what = "a second document begins here, and a file is read as one"
            return UserError(what, place, "remove the line `---`, or keep one document in a file")
        return UserError(f"this is not {kind}: {error.problem}", place, fix)
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        what = f"this is not {kind}: a character that no text holds, U+{error.character:04X}"
        return UserError(what, f"{path}:{line}", "remove it; the file may be no text at all")
    if isinstance(error, RecursionError):
        what = f"this is not {kind} that can be read: its brackets or indents nest too deep"
        return UserError(what, _deepest(path, text), "close what is opened, or write the values flat")
    told = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return UserError(f"this is not {kind}: {told[0]}", str(path), "save it as plain UTF-8 text")


def _deepest(path: Path, text: str) -> str:
    """Name the line in which brackets lie deepest within one another, as far as there are any."""
    depth = deepest = found = 0
    line = 1
    for character in text:
        if character == "\n":
            line += 1
        elif character in "[{":
            depth += 1
            if depth > deepest:
                deepest, found = depth, line
        elif character in "]}":
            depth -= 1
    return f"{path}:{found}" if found else str(path)
