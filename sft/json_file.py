"""Read one JSON object from a file that others wrote, a model's configuration for example: safely, or with the reason."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from sft.errors import ExitCode, Problem, UserError


class UnreadableError(ValueError):
    """A file that is there and holds no JSON object; as text, what is wrong with it.

    Attributes:
        reason: the same, going on from the file's name.
        exit_code: whether the file is at fault or the environment.
    """

    def __init__(self, path: Path, reason: str, exit_code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(f"{path.name} {reason}")
        self.path, self.reason = path, reason
        self.exit_code = exit_code

    def problem(self, fix: str = "fetch the model again") -> Problem:
        """Tell it; a file that is not to be read is mended by its owner."""
        if self.exit_code is ExitCode.ENVIRONMENT:
            fix = f"ask its owner for `chmod a+r`, or {fix}"
        return Problem(str(self), str(self.path), fix)

    def refusal(self, fix: str = "fetch the model again") -> UserError:
        """Return it as a problem that the user can mend."""
        return UserError.of([self.problem(fix)], exit_code=self.exit_code)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a file; None where there is none.

    Raises:
        UnreadableError: it is no plain file (a pipe would be waited for), may not be read, or holds no JSON object.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableError(path, "is not a plain file")
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise UnreadableError(path, reason, ExitCode.ENVIRONMENT) from None
    try:
        return parse_json(text)
    except ValueError as error:
        raise UnreadableError(path, str(error)) from None


def parse_json(text: bytes) -> dict[str, Any]:
    """Read an object from text.

    Raises:
        ValueError: it is none; the message goes on from the file's name.
    """
    try:
        found = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise ValueError("nests its values too deep") from None
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("holds no JSON object")
    return found
