"""From trained characters to trained tokens: a token carries loss if it holds any of them."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Encoding

from sft.data import special_text
from sft.data.template import Span


def mask_of(encoding: Encoding, count: int, spans: list[Span], characters: int) -> bytearray:
    """Mark the tokens that hold a character of a span, looking up no more than the spans' edges."""
    mask = bytearray(count)
    for start, stop in spans:
        if stop <= start:
            continue
        first = encoding.char_to_token(start)
        behind = count if stop >= characters else encoding.char_to_token(stop)
        if first is None or behind is None:  # the normalizer dropped the character
            return mask_by_offsets(encoding.offsets, spans)
        inside = encoding.token_to_chars(behind) if behind < count else None
        if inside is not None and inside[0] < stop:
            behind += 1  # one token holds characters of both sides
        mask[first:behind] = b"\x01" * (behind - first)
    return mask


def mask_by_offsets(offsets: Sequence[Span], spans: list[Span] | None) -> bytearray:
    """The same, from the characters of every token; for texts whose characters are not all in a token."""
    if spans is None:
        return bytearray(b"\x01") * len(offsets)
    mask = bytearray(len(offsets))
    for index, (start, stop) in enumerate(offsets):
        mask[index] = any(start < high and stop > low for low, high in spans)
    return mask


def without_marks(marked: str, spans: list[Span] | None) -> list[Span] | None:
    """Move the spans of a text with marks to where they lie in the text without."""
    if spans is None:
        return None
    before = [0]
    for character in marked:
        before.append(before[-1] + (character in (special_text.OPEN, special_text.CLOSE)))
    return [(start - before[start], stop - before[stop]) for start, stop in spans]
