r"""`dataset_mapping` and `formatting_func`: rows whose columns have other names, brought to a known shape.

`dataset_mapping` is one of two things. A function, `file.py:name` or `module:name`, is called with each row and
returns a row of any known shape, or text to train on, or None to drop the row. Or a mapping says what is read:

    messages: dialogue                      # a chat, of role and content or of from and value
    user: question, assistant: answer       # a chat of one turn; `system` and `tools` may stand beside
    prompt: "Q: {question}\nA:", completion: " {answer}"   # plain text in two parts, the second trained
    text: "{title}\n{body}"                 # plain text, all of it trained

A value with braces is a template: `{column}` is that column's text (numbers are written out, null drops the row),
`{{` and `}}` are braces. A value without braces is the name of a column, whose value is taken as it is. Columns that
the mapping does not name are not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sft.data import sharegpt
from sft.data.refusal import kind, listed, malformed, nearest, nothing_to_learn, quote
from sft.data.sample import BadRow
from sft.data.shapes import recognise
from sft.data.user_code import failing_line, load_object
from sft.errors import Problem, UserError

KEY = "dataset_mapping"
WAYS: tuple[tuple[str, ...], ...] = (
    ("text",),
    ("prompt", "completion"),
    ("user", "assistant"),
    ("messages",),
)
"""What a row may become; one of these, whole."""
BESIDE = ("system", "tools", "chat_template_kwargs")
KEYS = (*(key for way in WAYS for key in way), *BESIDE)
TEMPLATED = ("text", "prompt", "completion", "user", "assistant", "system")
PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class RowMapping(Protocol):
    """Makes a row of a known shape; `columns` are those that it reads, None for all."""

    @property
    def columns(self) -> tuple[str, ...] | None: ...

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]: ...


def row_mapping(
    mapping: str | Mapping[str, str] | None, formatting_func: str | None, text_field: str
) -> RowMapping | None:
    """Return what rows pass through first, if anything.

    Raises:
        UserError: both keys are set, or the mapping makes no sense.
    """
    if mapping is not None and formatting_func is not None:
        raise UserError(
            "dataset_mapping and formatting_func both say what a row becomes",
            where=KEY,
            fix="keep one; a function in dataset_mapping may return text, too",
        )
    if formatting_func is not None:
        return FunctionMapping(formatting_func, "formatting_func", text_field)
    if mapping is None:
        return None
    return (
        FunctionMapping(mapping, KEY, text_field)
        if isinstance(mapping, str)
        else NamesMapping(mapping, text_field)
    )


class FunctionMapping:
    """The user's own function."""

    columns: tuple[str, ...] | None = None

    def __init__(self, reference: str, key: str, text_field: str) -> None:
        self._reference, self._key, self._text_field = reference, key, text_field
        self._function: Callable[[dict[str, Any]], Any] = load_object(reference, key)
        if not callable(self._function):
            raise UserError(f"{reference} is no function", where=key, fix="name a function that takes a row")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Call the function.

        Raises:
            UserError: it fails, or returns what no row is.
            BadRow: it returns None, which drops the row.
        """
        try:
            made = self._function(row)
        except Exception as error:
            raise UserError(
                f"{self._reference} fails on a row with {listed(row)}: {type(error).__name__}: {error}",
                where=failing_line(error, self._function, self._reference) or self._key,
                fix="mend the function",
            ) from error
        if isinstance(made, str):
            return {self._text_field: made}
        if self._key == KEY:
            if isinstance(made, dict):
                self._check_shape(made)
                return made
            if made is None:
                fix = f"return a row from {self._reference} to keep it"
                raise nothing_to_learn(
                    f"{self._reference} returns None for it", fix, reason=f"dropped by {self._reference}"
                )
            fix = "return a dict of columns, text to train on, or None to drop the row"
            raise UserError(f"{self._reference} returns {type(made).__name__}, not a row", where=KEY, fix=fix)
        raise UserError(
            f"{self._reference} returns {type(made).__name__}, not text",
            where=self._key,
            fix="return the text of the one row that it is given",
        )

    def _check_shape(self, made: dict[str, Any]) -> None:
        try:
            recognise(made, self._text_field)
        except BadRow as refused:
            what = f"{self._reference} returns a row: {refused.what}"
            fix = f"return the columns of one of them from {self._reference}"
            raise malformed(what, fix, reason=refused.reason) from None


class NamesMapping:
    """Columns and templates by what they become."""

    def __init__(self, mapping: Mapping[str, str], text_field: str) -> None:
        problems = [*_key_problems(mapping), *_value_problems(mapping)]
        if problems:
            raise UserError.of(problems)
        self._values = {key: _Value(key, value) for key, value in mapping.items()}
        self._text_field = text_field
        names = (name for value in self._values.values() for name in value.columns)
        self.columns: tuple[str, ...] | None = tuple(dict.fromkeys(names))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the row.

        Raises:
            BadRow: it has no such column, or a value of it cannot be used so.
        """
        values = {key: value.of(row) for key, value in self._values.items()}
        if "user" in values:
            return _one_turn(values)
        if "text" in values:
            return {self._text_field: values["text"]}
        if "messages" in values and values.get("system"):
            values["messages"] = sharegpt.with_system(values.pop("system"), values["messages"], "messages")
        return values


def _one_turn(values: dict[str, Any]) -> dict[str, Any]:
    """Make prompt and completion of messages, so that it is known which part is the answer."""
    prompt = []
    for key in ("system", "user"):
        text = values.pop(key, None)
        if key == "user" or text:
            prompt.append({"role": key, "content": _text_of(text, key)})
    completion = [{"role": "assistant", "content": _text_of(values.pop("assistant"), "assistant")}]
    return {"prompt": prompt, "completion": completion, **values}


def _text_of(value: Any, key: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        reason = "empty answer" if key == "assistant" else "null content"
        raise nothing_to_learn(f"the column for {key} is null", "fill it, or remove the row", reason=reason)
    fix = "write {column} in braces to make text of a number; map a column of messages with messages"
    raise malformed(f"the column for {key} is {kind(value)}, not text", fix, reason="bad content")


class _Value:
    """A column's name, or a template: text and columns by turns."""

    def __init__(self, key: str, value: str) -> None:
        self._key = key
        self._is_template = "{" in value or "}" in value
        self._pieces = _pieces(value) if self._is_template else [(value, True)]
        self.columns = [text for text, is_column in self._pieces if is_column]

    def of(self, row: dict[str, Any]) -> Any:
        if not self._is_template:
            return self._column(row, self._pieces[0][0])
        return "".join([self._written(row, text) if is_column else text for text, is_column in self._pieces])

    def _column(self, row: dict[str, Any], name: str) -> Any:
        try:
            return row[name]
        except KeyError:
            meant = nearest(name, row)
            fix = f"write {meant}" if meant else "name one of its columns"
            what = f"{self._key} of {KEY} names the column {quote(name)}, and the row has {listed(row)}"
            raise malformed(what, fix, reason="missing column") from None

    def _written(self, row: dict[str, Any], name: str) -> str:
        value = self._column(row, name)
        if isinstance(value, str):
            return value
        if value is None:
            what = f"the column {name} is null, and {self._key} of {KEY} writes it"
            raise nothing_to_learn(what, "fill it, or remove the row", reason="null column")
        if isinstance(value, (bool, int, float)):
            return str(value)
        what = f"the column {name} is {kind(value)}, and {self._key} of {KEY} writes it as text"
        raise malformed(what, "name a column of text, or map the rows with a function", reason="bad content")


def _pieces(template: str) -> list[tuple[str, bool]]:
    """Split a template into its text and its columns.

    Raises:
        ValueError: a brace stands alone, or has no name in it.
    """
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in PIECE.finditer(template):
        pieces.append((template[end : match.start()], False))
        end = match.end()
        if match[0] in ("{{", "}}"):
            pieces.append((match[0][0], False))
        elif not match[1]:
            raise ValueError(match[0])
        else:
            pieces.append((match[1], True))
    pieces.append((template[end:], False))
    return [piece for piece in pieces if piece[0]]


def _key_problems(mapping: Mapping[str, str]) -> list[Problem]:
    problems = []
    for key in mapping:
        if key not in KEYS:
            meant = nearest(key, KEYS)
            fix = f"write {meant}" if meant else f"use {listed(KEYS)}"
            problems.append(Problem(f"{KEY} has the unknown key {key!r}", KEY, fix))
    if problems:
        return problems
    ways = [way for way in WAYS if any(key in mapping for key in way)]
    if len(ways) != 1:
        have = (
            "says nothing of what a row becomes" if not ways else f"has {' and '.join(_first(ways, mapping))}"
        )
        fix = f"keep one of: {'; '.join(' and '.join(way) for way in WAYS)}"
        return [Problem(f"{KEY} {have}" + (": a row becomes one thing" if ways else ""), KEY, fix)]
    (way,) = ways
    missing = [key for key in way if key not in mapping]
    if missing:
        have = next(key for key in way if key in mapping)
        return [Problem(f"{KEY} has {have} without {missing[0]}", KEY, f"add {missing[0]}")]
    if "system" in mapping and way not in (("user", "assistant"), ("messages",)):
        fix = "write user and assistant to make chats of the rows"
        return [Problem(f"{KEY} has system beside {' and '.join(way)}, which is plain text", KEY, fix)]
    if way == ("text",) and any(key in mapping for key in BESIDE):
        extra = next(key for key in BESIDE if key in mapping)
        return [
            Problem(f"{KEY} has {extra} beside text, which no chat template renders", KEY, f"remove {extra}")
        ]
    return []


def _first(ways: list[tuple[str, ...]], mapping: Mapping[str, str]) -> list[str]:
    return [next(key for key in way if key in mapping) for way in ways]


def _value_problems(mapping: Mapping[str, str]) -> list[Problem]:
    problems = []
    for key, value in mapping.items():
        if not isinstance(value, str) or not value.strip():
            what = f"{key} of {KEY} is {kind(value) if value != '' else 'empty'}"
            problems.append(Problem(what, KEY, "write a column's name, or a template with {column}"))
        elif "{" in value or "}" in value:
            if key not in TEMPLATED:
                problems.append(Problem(f"{key} of {KEY} is a template", KEY, "write a column's name"))
                continue
            try:
                _pieces(value)
            except ValueError as error:
                what = f"{key} of {KEY} has a brace that names no column: {error}"
                problems.append(Problem(what, KEY, "write {column}, or {{ and }} for braces"))
    return problems
