"""From a row of any known shape to what is rendered and tokenized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sft.data import alpaca, sharegpt
from sft.data.mapping import row_mapping
from sft.data.messages import read_messages
from sft.data.parts import media
from sft.data.refusal import kind, listed, malformed, nothing_to_learn
from sft.data.sample import BadRow, Chat, Message, PromptCompletion, Sample, Text
from sft.data.shapes import CHAT_COLUMNS, Shape, chat_column, recognise
from sft.data.tokenized import read_tokens
from sft.data.tools import read_tools

RESERVED = {
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "messages",
    "return_assistant_tokens_mask",
    "return_dict",
    "tokenize",
    "tools",
}
"""Arguments of `apply_chat_template` that a row may not set."""


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """The keys of the run file that say how rows are read.

    Attributes:
        text_field: dataset_text_field, the column of plain text.
        mapping: dataset_mapping, see `sft.data.mapping`.
        formatting_func: the user's function from a row to the text to train on.
    """

    text_field: str = "text"
    mapping: str | Mapping[str, str] | None = None
    formatting_func: str | None = None


class Converter:
    """Converts rows. Made once in each worker, as it holds the user's own functions.

    Attributes:
        columns: the columns that are read, where dataset_mapping names them; None for all.
    Raises:
        UserError: the mapping makes no sense, or names a function that is not there.
    """

    def __init__(self, settings: ConvertSettings) -> None:
        self._text_field = settings.text_field
        self._map = row_mapping(settings.mapping, settings.formatting_func, settings.text_field)
        self.columns = self._map.columns if self._map is not None else None

    def convert(self, row: dict[str, Any]) -> tuple[Shape, Sample]:
        """Return what a row is and what it becomes. The sample shares objects with the row, which is not altered.

        Raises:
            BadRow: it cannot be trained on.
            UserError: the user's own function fails.
        """
        if self._map is not None:
            row = self._map(row)
        shape = recognise(row, self._text_field)
        if shape is Shape.TOKENS:
            return shape, read_tokens(row)
        if row.get("images") or row.get("image"):  # by these TRL takes a set for one of images
            raise media(f"the row has something in its column {'images' if row.get('images') else 'image'}")
        if shape is Shape.TEXT:
            return shape, self._text(row)
        if shape is Shape.MESSAGES or shape is Shape.SHAREGPT:
            return shape, _conversation(row, shape)
        if shape is Shape.ALPACA:
            messages = alpaca.to_messages(row)
            return shape, _chat(row, messages, (), len(messages) - 1)
        return shape, _prompt_completion(row)

    def _text(self, row: dict[str, Any]) -> Text:
        text = row[self._text_field]
        if type(text) is str and text and not text.isspace():
            return Text(text)
        if text is None or isinstance(text, str):
            what = f"{self._text_field} is {'null' if text is None else 'empty'}"
            raise nothing_to_learn(what, "fill it, or remove the row", reason="empty text")
        raise malformed(
            f"{self._text_field} is {kind(text)}, not text", "write it as text", reason="bad content"
        )


def _conversation(row: dict[str, Any], shape: Shape) -> Chat:
    column = chat_column(row)
    raw = row[column]
    if column != CHAT_COLUMNS[0]:
        if row.get("system"):
            raw = sharegpt.with_system(row["system"], raw, column)
        if shape is Shape.MESSAGES:
            raw = sharegpt.rename_roles(raw)
    if shape is Shape.SHAREGPT:
        raw = sharegpt.to_messages(raw)
    messages, trained = read_messages(raw, column)
    return _chat(row, messages, trained, None)


def _prompt_completion(row: dict[str, Any]) -> PromptCompletion | Chat:
    prompt, completion = row["prompt"], row["completion"]
    if type(prompt) is str and type(completion) is str:
        if not completion or completion.isspace():
            raise nothing_to_learn("completion is empty", "fill it, or remove the row", reason="empty answer")
        return PromptCompletion(prompt, completion)
    if isinstance(prompt, (list, tuple)) and isinstance(completion, (list, tuple)):
        messages, trained = read_messages([*prompt, *completion], "prompt and completion", len(prompt))
        return _chat(row, messages, trained, len(prompt))
    raise _bad_pair(prompt, completion)


def _bad_pair(prompt: Any, completion: Any) -> BadRow:
    if completion is None:
        return nothing_to_learn("completion is null", "fill it, or remove the row", reason="empty answer")
    if prompt is None:
        return nothing_to_learn("prompt is null", "fill it, or remove the row", reason="null content")
    what = f"prompt is {kind(prompt)} and completion is {kind(completion)}"
    return malformed(what, "make both text, or both lists of messages", reason="bad prompt and completion")


def _chat(
    row: dict[str, Any],
    messages: list[Message],
    trained: tuple[bool | None, ...],
    prompt_messages: int | None,
) -> Chat:
    tools, variables = row.get("tools"), row.get("chat_template_kwargs")
    if tools is not None:
        tools = read_tools(tools)
    return Chat(messages, tools, prompt_messages, trained, {} if variables is None else _variables(variables))


def _variables(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        what = f"chat_template_kwargs is {kind(value)}, not an object"
        raise malformed(what, "write an object of the template's variables", reason="bad template variables")
    taken = sorted(RESERVED & value.keys())
    if taken:
        what = f"chat_template_kwargs sets {listed(taken)}, which is no variable of the template"
        raise malformed(what, "remove it from the row", reason="bad template variables")
    return value
