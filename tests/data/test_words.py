"""Words that were seen before, and tokens that spell the text: both must give what the library gives for the whole."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from sft.data import words
from sft.data.encode import Encoded, Encoder
from sft.data.loss import EncodeSettings
from sft.data.masks import mask_by_offsets
from sft.data.sample import PromptCompletion
from sft.data.spelled import Spelled
from sft.data.tokenizer import TokenizerFiles
from sft.data.words import Words, cuts_at_spaces
from tests.data.tokenizers import CHATML, byte_level, gemma, metaspace, prepending, unigram, word_piece


def _digits() -> Tokenizer:
    """SmolLM2's kind."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


KNOWN = {
    "gpt2": byte_level(),
    "digits": _digits(),
    "nfc": byte_level(nfc=True),
    **{pattern[:24]: byte_level(pattern) for pattern in sorted(words.PATTERNS)},
}
for known in KNOWN.values():
    known.add_tokens([AddedToken("<think>", normalized=False), AddedToken("don't", normalized=True)])
PIECES = st.one_of(
    st.text(" ab1\n\t\r'sS.,!-/<>|", max_size=10),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=10),
    st.sampled_from(
        [*CHATML, "<|im_", "<think>", "don't", "DON'T", "they're here", "  ", " \n ", "12345", "cat sat"]
    ),
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)
ANY = st.lists(
    st.one_of(PIECES, st.text(st.characters(exclude_categories=["Cs"]), max_size=6)), max_size=6
).map("".join)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


@pytest.mark.parametrize("name", KNOWN)
@given(texts=st.lists(TEXTS, max_size=4))
def test_the_tokens_of_plain_text_are_the_librarys(name: str, texts: list[str]) -> None:
    tokenizer = KNOWN[name]
    assert cuts_at_spaces(tokenizer)
    remembered = Words(tokenizer)
    for _ in range(2):  # learned, and remembered
        found = remembered.encode(texts)
        assert [list(ids or ()) for ids in found] == [ids_of(tokenizer, text) for text in texts]


def test_text_that_is_not_plain_is_left_to_the_library() -> None:
    remembered = Words(KNOWN["gpt2"])
    for odd in ("Zürich", "a\u00a0b", "a\x00b", "a\x0bb", "a\x1cb", "a\x7f"):
        assert remembered.encode([odd, "a b"]) == [None, array("i", ids_of(KNOWN["gpt2"], "a b"))]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "BYTES_KEPT", 3000)
    remembered = Words(KNOWN["gpt2"])
    for turn in range(50):
        text = " ".join(f"word{turn}x{index}" for index in range(10))
        assert list(remembered.encode([text])[0] or ()) == ids_of(KNOWN["gpt2"], text)
        assert len(remembered._known) <= 3000 / 200 + 20


def _changed(change: Callable[[Tokenizer], object]) -> Tokenizer:
    tokenizer = byte_level()
    change(tokenizer)
    return tokenizer


def _set(**parts: object) -> Tokenizer:
    tokenizer = byte_level()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        gemma(),
        metaspace(),
        prepending(),
        unigram(),
        word_piece(),
        byte_level(r"\w+|\s+|\S"),
        _set(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
        _set(normalizer=normalizers.Lowercase()),
        _changed(lambda tokenizer: setattr(tokenizer.model, "dropout", 0.1)),
        _changed(lambda tokenizer: tokenizer.add_tokens(["New York"])),
        _changed(lambda tokenizer: tokenizer.add_tokens([AddedToken("<x>", lstrip=True)])),
        _changed(lambda tokenizer: tokenizer.add_tokens([AddedToken("<x>", rstrip=True)])),
        _changed(lambda tokenizer: tokenizer.add_tokens([AddedToken("x", single_word=True)])),
        Tokenizer(models.BPE()),
    ],
)
def test_a_tokenizer_that_may_cut_elsewhere_is_not_trusted(tokenizer: Tokenizer) -> None:
    assert not cuts_at_spaces(tokenizer)


@pytest.mark.parametrize("name", KNOWN)
@given(text=ANY, data=st.data())
def test_tokens_that_spell_the_text_mark_what_its_offsets_mark(
    name: str, text: str, data: st.DataObject
) -> None:
    tokenizer = KNOWN[name]
    spelled = Spelled.by(tokenizer)
    assert spelled is not None
    edges = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=4, max_size=4)))
    spans = [(edges[0], edges[1]), (edges[2], edges[3])]
    encoding = tokenizer.encode(text, add_special_tokens=False)
    mask = spelled.mask(array("i", encoding.ids), text, spans)
    if mask is None:
        assert tokenizer.normalizer is not None
        assert tokenizer.normalizer.normalize_str(text) != text
        return
    # The library's ByteLevel takes white space off a token's characters unless it is told otherwise.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    whole = tokenizer.encode(text, add_special_tokens=False)
    assert mask == mask_by_offsets(whole.offsets, [span for span in spans if span[0] < span[1]])


@pytest.mark.parametrize("tokenizer", [gemma(), metaspace(), prepending(), unigram(), word_piece()])
def test_tokenizers_of_other_kinds_are_not_spelled(tokenizer: Tokenizer) -> None:
    assert Spelled.by(tokenizer) is None


def test_a_row_that_its_tokens_do_not_spell_gets_its_mask_from_the_offsets() -> None:
    files = TokenizerFiles(byte_level(nfc=True).to_str(), {}, {})
    encoder = Encoder(files, EncodeSettings(eos_token="<|endoftext|>"))
    prompt, completion = "cafe\u0301 ", "the cafe\u0301 sat"
    row = encoder.encode([PromptCompletion(prompt, completion)])[0]
    assert isinstance(row, Encoded)
    tokens = list(zip(row.ids, row.mask, strict=True))
    assert [token for token, _ in tokens] == ids_of(encoder.tokenizer, prompt + completion + "<|endoftext|>")
    said = {
        trained: encoder.tokenizer.decode(
            [token for token, one in tokens if one == trained], skip_special_tokens=False
        )
        for trained in (0, 1)
    }
    assert said == {0: "café", 1: " the café sat<|endoftext|>"}
