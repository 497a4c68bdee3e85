"""What a program reads on stdout where a command has no answer to give: the problems, as findings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager

from sft.errors import UserError

CHECK = "run file"
"""What the findings are called by that come before every check."""


@contextmanager
def told_as_json(wanted: bool) -> Iterator[None]:
    """Print the problems that end this block as a JSON document, and let them go on.

    Raises:
        UserError: the same one; its text goes to stderr, and its exit code is the command's.
    """
    try:
        yield
    except UserError as error:
        if wanted:
            findings = [
                {"check": CHECK, "gravity": "error", **dataclasses.asdict(problem)}
                for problem in error.problems
            ]
            print(json.dumps({"findings": findings}, indent=2))
        raise
