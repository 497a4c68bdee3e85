"""Text that spells a special token inside a row's own content, and how it stays text.

A user who writes `<|im_end|>` has not ended a turn. transformers has the same care at inference under
`sanitize_control_tokens`; what counts as a control token is its rule: special tokens, and those added tokens
that the template itself writes. In the assistant's own messages the second kind (`<think>`, `<tool_call>`)
is what the model is meant to write, and stays a token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

from sft.data.sample import BadRow, Chat, Message

OPEN, CLOSE = "\ufdd2", "\ufdd3"
"""Noncharacters around a spelled token while the row is rendered."""
MARKED = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")


class SpecialText:
    """Knows which texts are tokens, marks them in content, and tokenizes marked text.

    Args:
        listed: the control tokens that the tokenizer lists by itself, if it does.
        literals: what the chat template itself writes.
    """

    def __init__(self, tokenizer: Tokenizer, listed: Sequence[str] | None, literals: str) -> None:
        self.tokenizer = tokenizer
        added = list(tokenizer.get_added_tokens_decoder().values())
        special = {token.content for token in added if token.special}
        if listed is None:
            written = {token.content for token in added if not token.content.isspace()}
            control = special | {token for token in written if token in literals}
        else:
            control = special | (set(listed) & {token.content for token in added})
        self._ids = {token: tokenizer.token_to_id(token) for token in control}
        self._firsts = tuple({token[0] for token in control if token})
        self._special, self._control = _pattern(special), _pattern(control)
        self._plain: Tokenizer | None = None
        self._newline = tokenizer.encode("\n", add_special_tokens=False).ids

    def spelled_in(self, chat: Chat) -> bool:
        """Whether the content of a conversation spells a token."""
        for message in chat.messages:
            content = message.get("content")
            simple = len(message) == 2 and isinstance(content, str)
            if simple and not any(first in content for first in self._firsts):  # type: ignore[operator]
                continue
            pattern = self._pattern_for(message)
            if any(pattern.search(text) for text in _texts(message)):
                return True
        return bool(chat.tools) and any(self._control.search(text) for text in _texts({"tools": chat.tools}))

    def mark(self, chat: Chat) -> Chat:
        """Return the conversation with every spelled token between marks."""
        messages = [
            {
                key: value if key == "role" else _marked(value, self._pattern_for(message))
                for key, value in message.items()
            }
            for message in chat.messages
        ]
        tools = None if chat.tools is None else [_marked(tool, self._control) for tool in chat.tools]
        return Chat(messages, tools, chat.prompt_messages, chat.trained, chat.template_kwargs)

    def _pattern_for(self, message: Message) -> re.Pattern[str]:
        return self._special if message["role"] == "assistant" else self._control

    def encode(self, marked: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokenize a rendered text with marks.

        Returns:
            The ids, and the characters of each in the text without marks.

        Raises:
            BadRow: the template tore the marks apart, or the tokenizer makes the token of plain text too.
        """
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        at = 0
        for index, piece in enumerate(MARKED.split(marked)):
            if OPEN in piece or CLOSE in piece:
                raise unclear("the template takes the text apart")
            if not piece:
                continue
            as_text = index % 2 == 1
            piece_ids, piece_offsets = self._encode_piece(piece, as_text, first=at == 0)
            if as_text and self._ids.get(piece) in piece_ids:
                raise unclear(f"the tokenizer makes the token {piece} of plain text too")
            ids += piece_ids
            offsets += [(start + at, stop + at) for start, stop in piece_offsets]
            at += len(piece)
        return ids, offsets

    def _encode_piece(
        self, piece: str, as_text: bool, *, first: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        tokenizer = self._without_added_tokens() if as_text else self.tokenizer
        if not first:
            # Behind a newline, because SentencePiece puts a space before the beginning of a text.
            found = tokenizer.encode("\n" + piece, add_special_tokens=False)
            count = len(self._newline)
            if found.ids[:count] == self._newline:
                return found.ids[count:], [(start - 1, stop - 1) for start, stop in found.offsets[count:]]
        found = tokenizer.encode(piece, add_special_tokens=False)
        return found.ids, found.offsets

    def _without_added_tokens(self) -> Tokenizer:
        if self._plain is None:
            fields = json.loads(self.tokenizer.to_str())
            fields["added_tokens"] = []
            self._plain = Tokenizer.from_str(json.dumps(fields))
        return self._plain


def bare(marked: str) -> str:
    """Return a text without its marks."""
    return marked.replace(OPEN, "").replace(CLOSE, "")


def _pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, item in value.items() if key != "role" for text in _texts(item)]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _texts(item)]
    return []


def _marked(value: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return pattern.sub(lambda found: f"{OPEN}{found[0]}{CLOSE}", bare(value))
    if isinstance(value, dict):
        return {key: _marked(item, pattern) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_marked(item, pattern) for item in value]
    return value


def refused() -> BadRow:
    """Say that special text is not wanted."""
    return BadRow(
        "the content spells a special token",
        "remove it from the text, or set special_tokens_in_content: text",
        reason="special token in content",
        malformed=False,
    )


def unclear(why: str) -> BadRow:
    return BadRow(
        f"the content spells a special token, and {why}",
        "remove it from the text",
        reason="special token in content",
        malformed=False,
    )
