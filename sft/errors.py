"""Problems that the user can mend, and the exit codes of every command.

Nothing else in the kit decides an exit code or formats an error: `sft.cli.main` catches `UserError`
once, prints its problems to stderr and leaves with its code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Why a command ended, for shells, schedulers and the supervisor."""

    DONE = 0
    BUG = 1
    USAGE = 2
    DOES_NOT_FIT = 3
    ENVIRONMENT = 4
    TRAINING_FAILED = 5
    WORKER_LOST = 6
    STOPPED = 75


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what, where it stands, and how to mend it."""

    what: str
    where: str | None = None
    fix: str | None = None

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class UserError(Exception):
    """One or more problems that the user can mend. Anything else keeps its traceback."""

    def __init__(
        self,
        what: str,
        where: str | None = None,
        fix: str | None = None,
        *,
        exit_code: ExitCode = ExitCode.USAGE,
    ) -> None:
        self.problems: tuple[Problem, ...] = (Problem(what, where, fix),)
        self.exit_code = exit_code
        super().__init__(what)

    @classmethod
    def of(cls, problems: Iterable[Problem], *, exit_code: ExitCode = ExitCode.USAGE) -> UserError:
        """Make one error of several problems, which are told together."""
        found = tuple(problems)
        error = cls(found[0].what, found[0].where, found[0].fix, exit_code=exit_code)
        error.problems = found
        return error

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
