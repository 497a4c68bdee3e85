"""What a token spells, byte for byte, and how a text is written so that each of its characters can be seen.

Decoding a whole row would join and strip; here each id keeps the bytes that it stands for.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE_OF_SENTENCEPIECE = "\u2581"
NEWLINE, TAB, SPACE = "⏎", "⇥", "␣"
TRAINED = ("⟦", "⟧")
SPECIAL = ("⟪", "⟫")
ESCAPE = ("⟨", "⟩")
OURS = frozenset((NEWLINE, TAB, SPACE, *TRAINED, *SPECIAL, *ESCAPE))
"""Characters with a meaning of their own in a drawing: where a text has one, it is escaped."""
MOST_MARKS = 2
"""Combining marks on one character; more are escaped, since they draw over the lines around."""

Mark = Literal["text", "sign"]


@dataclass(frozen=True, slots=True)
class Spelling:
    """One entry of a vocabulary.

    Attributes:
        name: as the vocabulary writes it.
        content: the bytes of text that it stands for.
        special: added to the vocabulary beside the learned text: a turn's end, a role's tag.
    """

    name: str
    content: bytes
    special: bool


class Speller:
    """Spell the ids of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        # The decoder alone: the whole tokenizer as JSON is megabytes.
        state = b"null" if tokenizer.decoder is None else tokenizer.decoder.__getstate__()
        self._kinds = set(_decoder_kinds(json.loads(state)))
        self._known: dict[int, Spelling] = {}

    def spell(self, token_id: int) -> Spelling:
        """Return what an id stands for; an id beyond the vocabulary stands for nothing."""
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._look_up(token_id)
        return found

    def _look_up(self, token_id: int) -> Spelling:
        added = self._added.get(token_id)
        if added is not None:
            special = added.special or not added.content.isspace()
            return Spelling(added.content, added.content.encode("utf-8", "surrogatepass"), special)
        name = self._tokenizer.id_to_token(token_id)
        if name is None:
            return Spelling(f"[id {token_id} is not in the vocabulary]", b"", True)
        return Spelling(name, self._content(name), False)

    def _content(self, name: str) -> bytes:
        if "ByteLevel" in self._kinds:
            table = _bytes_of_characters()
            if all(character in table for character in name):
                return bytes(table[character] for character in name)
            return name.encode()
        byte = BYTE_TOKEN.fullmatch(name)
        if byte and "ByteFallback" in self._kinds:
            return bytes([int(byte[1], 16)])
        if self._kinds & {"Replace", "Metaspace"}:
            name = name.replace(SPACE_OF_SENTENCEPIECE, " ")
        return name.encode()


def _decoder_kinds(state: dict[str, Any] | None) -> Iterator[str]:
    if state is not None:
        yield state["type"]
        for part in state.get("decoders", ()):
            yield from _decoder_kinds(part)


@cache
def _bytes_of_characters() -> dict[str, int]:
    """Return the table of byte-level BPE, turned round.

    Source:
        bytes_to_unicode of GPT-2's encoder.py: printable Latin-1 stands for itself, the rest moves up from 256.
    """
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(itself)]
    return {chr(byte): byte for byte in itself} | {chr(256 + n): byte for n, byte in enumerate(moved)}


def readable(content: bytes) -> str:
    """Decode UTF-8; a byte that is none becomes a lone surrogate, which `visible` writes as the byte."""
    return content.decode("utf-8", "surrogateescape")


def unfinished(content: bytes) -> bool:
    """Whether only the end of a character is missing."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def escaped(character: str) -> str:
    """Name a character that must not be drawn."""
    code = ord(character)
    return f"⟨{code - 0xDC00:02X}⟩" if 0xDC80 <= code <= 0xDCFF else f"⟨U+{code:04X}⟩"


def visible(text: str, before: str = "", after: str = "") -> list[tuple[Mark, str]]:
    """Write a text so that it can neither draw on a terminal nor change the order of what is around.

    A newline becomes its sign and a newline. Controls, characters without width, the marks that turn the
    direction of writing, other spaces and our own signs are escaped. A space becomes a sign where it would not
    be seen: beside white space, or at an end.

    Args:
        before: the character that stands before the text, if any; `after` likewise.
    """
    around = [before, *text, after]
    written: list[tuple[Mark, str]] = []
    marks = 0
    for place, character in enumerate(text, 1):
        combining = unicodedata.category(character) in ("Mn", "Mc", "Me")
        marks = marks + 1 if combining else 0
        if character == "\n":
            written.append(("sign", NEWLINE + "\n"))
        elif character == "\t":
            written.append(("sign", TAB))
        elif character == " " and any(
            not beside or beside.isspace() for beside in (around[place - 1], around[place + 1])
        ):
            written.append(("sign", SPACE))
        elif not character.isprintable() or character in OURS or marks > MOST_MARKS:
            written.append(("sign", escaped(character)))
        elif combining and marks == 1 and not written:
            # The letter under it is another token's: the circle is the usual stand-in.
            written.append(("text", "\u25cc" + character))
        else:
            written.append(("text", character))
    return _joined(written)


def _joined(written: list[tuple[Mark, str]]) -> list[tuple[Mark, str]]:
    joined: list[tuple[Mark, str]] = []
    for mark, text in written:
        if joined and joined[-1][0] == mark:
            joined[-1] = (mark, joined[-1][1] + text)
        else:
            joined.append((mark, text))
    return joined


def in_one_line(text: str) -> str:
    """Write a text on one line: for a list, a tooltip."""
    parts = visible(text)
    return "".join(part for _, part in parts).replace("\n", "")
