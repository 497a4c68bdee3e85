"""What one row becomes before it is tokenized, and why a row is not trained.

Every shape of row is converted into one of four kinds; nothing behind this page knows shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""`role`, `content` as text, and what templates read beside them: `tool_calls`, `reasoning_content`, `name`..."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation that a chat template renders.

    Attributes:
        prompt_messages: how many of the messages are the prompt, where the row tells prompt and completion apart.
        trained: one entry a message: True or False where the row says so, None where it does not. Empty if no
            message says anything.
        template_kwargs: variables of the row's own for the template.
    """

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] | None = None
    prompt_messages: int | None = None
    trained: tuple[bool | None, ...] = ()
    template_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """Plain text in two parts, joined without anything between them."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, all of it trained."""

    text: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """A row that came tokenized. Labels are -100 where there is no loss."""

    input_ids: Sequence[int]
    labels: Sequence[int]


Sample = Chat | PromptCompletion | Text | Tokens


class BadRow(Exception):
    """A row that cannot be trained.

    Attributes:
        what: what is wrong with this row, without its place.
        fix: how to mend it.
        reason: the few words under which such rows are counted in the ledger, e.g. "empty answer".
        malformed: the row is not what the set's shape promises (a missing column, a wrong type, an unknown
            role), which refuses the run unless `bad_rows: drop`; otherwise it is well formed and has nothing to
            learn from, and is dropped and counted.
    """

    def __init__(self, what: str, fix: str, *, reason: str, malformed: bool) -> None:
        self.what, self.fix, self.reason, self.malformed = what, fix, reason, malformed
        super().__init__(what, fix, reason, malformed)

    def __reduce__(self) -> tuple[Any, ...]:
        return _bad_row, (self.what, self.fix, self.reason, self.malformed)


def _bad_row(what: str, fix: str, reason: str, malformed: bool) -> BadRow:
    return BadRow(what, fix, reason=reason, malformed=malformed)
