"""Tokenize plain English text by words that were seen before. The tokens are the library's own, word by word.

The tokenizers that most models of today have cut a text into words before anything else, and what a word becomes does
not depend on its neighbours. For those whose way of cutting is known here, a space behind a character that is no white
space always begins a new word. So a text is cut there, each stretch goes through the library once, and its tokens are
remembered. What is not plain ASCII, and what a tokenizer does otherwise, goes through the library whole.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = frozenset(
    {
        # Llama 3
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{BLANKS}",
        # Qwen 2 to 3
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{BLANKS}",
        # gpt-oss
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{BLANKS}",
    }
)
"""How a Split may cut. In all of these, and in the pattern that ByteLevel has of its own, white space stands at the
beginning of a word, or is all of it; only line ends may close one. None looks back, nor ahead but from white space."""
PLAIN = re.compile(r"[\t\n\r -~]*")
"""Text over which every engine agrees what is a letter, a digit and white space."""
BEGINNINGS = re.compile(r"(?<=[!-~])(?= )")
FIRST = "\0"
BYTES_KEPT = 32 << 20
BYTES_A_WORD = 200
"""About what the objects of one remembered word take, without its characters."""


class Words:
    """Remembers the tokens of words, up to some size.

    Args:
        tokenizer: one of which `cuts_at_spaces` holds.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, bytes] = {}
        """The int32 ids of each word, by what stands behind its space; a text's first, by itself behind a NUL."""
        self._bytes = 0

    def encode(self, texts: Sequence[str]) -> list[array[int] | None]:
        """Return the ids (int32) of each text, without tokens around it, or None for a text that is not plain."""
        cut = [_cut(text) if PLAIN.fullmatch(text) else None for text in texts]
        self._learn({word for words in cut if words for word in words})
        found: list[array[int] | None] = []
        for words in cut:
            if words is None:
                found.append(None)
                continue
            ids = array("i")
            ids.frombytes(b"".join([self._known[word] for word in words]))
            found.append(ids)
        return found

    def _learn(self, words: set[str]) -> None:
        if self._bytes > BYTES_KEPT:
            self._known.clear()
            self._bytes = 0
        new = list(words - self._known.keys())
        texts = [word[1:] if word[:1] == FIRST else " " + word for word in new]
        for word, encoding in zip(
            new, self._tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True
        ):
            self._known[word] = array("i", encoding.ids).tobytes()
            self._bytes += len(word) + BYTES_A_WORD


def _cut(text: str) -> list[str]:
    """Cut a text before each space that follows no white space, and leave that space out."""
    if "  " in text or "\n " in text or "\t " in text or "\r " in text:
        first, *others = BEGINNINGS.split(text)
        return [FIRST + first, *[word[1:] for word in others]]
    words = text.split(" ")
    words[0] = FIRST + words[0]
    return words


def cuts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is known to begin a word at every space behind a character that is no white space."""
    added = tokenizer.get_added_tokens_decoder().values()
    return (
        isinstance(tokenizer.model, BPE)
        and not tokenizer.model.dropout
        and (tokenizer.normalizer is None or isinstance(tokenizer.normalizer, NFC))
        and tokenizer.pre_tokenizer is not None
        and _is_known(json.loads(tokenizer.pre_tokenizer.__getstate__()))
        and not any(" " in token.content for token in added)
        and not any(token.single_word or token.lstrip or token.rstrip for token in added)
    )


def _is_known(fields: Mapping[str, Any]) -> bool:
    """Read a pre-tokenizer as tokenizer.json has it."""
    *before, last = fields["pretokenizers"] if fields["type"] == "Sequence" else [fields]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return False
    if last["use_regex"]:  # GPT-2's pattern; cut between digits before, which is nowhere near a space
        return all(step["type"] == "Digits" for step in before)
    return [step["type"] for step in before] == ["Split"] and all(
        step["pattern"].get("Regex") in PATTERNS and step["behavior"] == "Isolated" and not step["invert"]
        for step in before
    )
