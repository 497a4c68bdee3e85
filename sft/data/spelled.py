"""What every token spells, for tokenizers whose tokens, one after another, are the text's own bytes.

Where they are, the characters of a token are found by counting bytes, and the library need not keep track of them:
that is a fifth of its time. Nothing is assumed of a tokenizer. Each row's tokens are held against its text, and the
rows that they do not spell (a normalizer, a space put before the text) are told to look the offsets up.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

from sft.data.template import Span


def alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    The printable bytes of Latin-1 stand for themselves, the others for the characters from U+0100 on, in their order.

    Source:
        Radford et al., Language Models are Unsupervised Multitask Learners, 2019: the encoder of GPT-2.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


class Spelled:
    """The bytes of every token of one tokenizer.

    Attributes:
        tokens: bytes, by id.
        sizes: int32, by id.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = np.empty(len(tokens), dtype=object)
        self.tokens[:] = tokens
        self.sizes = np.array([len(token) for token in tokens], dtype=np.int32)

    @classmethod
    def by(cls, tokenizer: Tokenizer) -> Spelled | None:
        """Return what a tokenizer's tokens spell, or None for one that is not byte-level."""
        if not isinstance(tokenizer.decoder, ByteLevel):
            return None
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        tokens = [b""] * (max(vocabulary.values(), default=-1) + 1)
        table = {ord(character): byte for character, byte in alphabet().items()}
        for token, index in vocabulary.items():
            with suppress(UnicodeEncodeError):  # a token that is no bytes of this alphabet spells nothing
                tokens[index] = token.translate(table).encode("latin-1")
        for index, added in tokenizer.get_added_tokens_decoder().items():
            tokens[index] = added.content.encode()
        return cls(tokens)

    def mask(self, ids: array[int], text: str, spans: Sequence[Span]) -> bytearray | None:
        """Mark the tokens that hold a character of a span.

        Args:
            ids: int32, T.

        Returns:
            T bytes, or None where the tokens do not spell the text.
        """
        written = text.encode()
        places = np.frombuffer(ids, dtype=np.int32)
        if b"".join(self.tokens[places].tolist()) != written:
            return None
        ends = self.sizes[places].cumsum()
        mask = bytearray(len(ids))
        for start, stop in spans:
            if stop <= start:
                continue
            if len(written) != len(text):
                start, stop = (len(text[:edge].encode()) for edge in (start, stop))
            first = int(ends.searchsorted(start, side="right"))
            behind = (
                int(ends.searchsorted(stop, side="left")) + 1
            )  # behind the token with the span's last byte
            mask[first:behind] = b"\x01" * (behind - first)
        return mask
