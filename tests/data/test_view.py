"""What is shown of prepared rows, and how it is drawn on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text
from tokenizers import Tokenizer, decoders, models

from sft.data.screen import draw, share
from sft.data.spelling import Speller, visible
from sft.data.view import NO_LOSS, PreparedRow, TokenRun, show_rows, spell_runs


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model / "tokenizer.json"))


@pytest.fixture(scope="module")
def speller(tokenizer: Tokenizer) -> Speller:
    return Speller(tokenizer)


def row(
    tokenizer: Tokenizer, number: int, *parts: tuple[str, bool], source: str = "", cut: int = 0
) -> PreparedRow:
    ids: list[int] = []
    labels: list[int] = []
    for text, trained in parts:
        encoded = tokenizer.encode(text).ids
        ids += encoded
        labels += encoded if trained else [NO_LOSS] * len(encoded)
    return PreparedRow(number, ids, labels, sources=(source,) if source else (), cut=cut)


def packed(*rows: PreparedRow) -> PreparedRow:
    return PreparedRow(
        1,
        [token for one in rows for token in one.input_ids],
        [label for one in rows for label in one.labels],
        [len(one.input_ids) for one in rows],
        tuple(source for one in rows for source in one.sources),
    )


def chat(tokenizer: Tokenizer, number: int, question: str, answer: str, **more: object) -> PreparedRow:
    asked = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return row(tokenizer, number, (asked, False), (f"{answer}<|im_end|>", True), ("\n", False), **more)  # type: ignore[arg-type]


def drawn(
    speller: Speller, rows: list[PreparedRow], *, width: int = 80, colour: bool = False, tokens: bool = False
) -> str:
    return draw(show_rows(rows, speller), width=width, colour=colour, tokens=tokens)


def ruled(left: str, right: str, width: int) -> str:
    return left + " " + "━" * (width - len(left) - len(right) - 5) + f" {right} ━━"


# --- tokens


def test_tokens_of_one_character_are_one_run(tokenizer: Tokenizer, speller: Speller) -> None:
    ids = tokenizer.encode("a日😀b").ids
    runs = list(spell_runs(ids, [True] * len(ids), speller, 10))
    assert [(run.text, run.index, len(run.ids)) for run in runs] == [
        ("a", 10, 1),
        ("日", 11, 3),
        ("😀", 14, 4),
        ("b", 18, 1),
    ]
    assert runs[1] == TokenRun(11, tuple(ids[1:4]), ("æ", "Ĺ", "¥"), "日", special=False, trained=True)


def test_a_character_that_is_never_finished_is_shown_as_its_bytes(
    tokenizer: Tokenizer, speller: Speller
) -> None:
    first, second, third = tokenizer.encode("日").ids
    ids = [first, second, *tokenizer.encode("x<|im_end|>").ids, third, first]
    texts = [
        "".join(part for _, part in visible(run.text)) for run in spell_runs(ids, [True] * len(ids), speller)
    ]
    assert texts == ["⟨E6⟩", "⟨97⟩", "x", "<|im_end|>", "⟨A5⟩", "⟨E6⟩"]


def test_a_character_half_of_which_is_trained_is_not_joined(tokenizer: Tokenizer, speller: Speller) -> None:
    runs = list(spell_runs(tokenizer.encode("日").ids, [False, True, True], speller))
    assert [(len(run.ids), run.trained) for run in runs] == [(1, False), (1, True), (1, True)]


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=200)
def test_runs_hold_every_token_once_and_spell_the_text(
    tokenizer: Tokenizer, speller: Speller, text: str
) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = tokenizer.encode(text).ids
    runs = list(spell_runs(ids, [place % 3 > 0 for place in range(len(ids))], speller))
    assert [token for run in runs for token in run.ids] == ids
    whole = list(spell_runs(ids, [True] * len(ids), speller))
    assert "".join(run.text for run in whole) == text


def test_a_special_token_is_told_from_text_that_spells_it(tokenizer: Tokenizer, speller: Speller) -> None:
    letters = [tokenizer.token_to_id(letter) for letter in "<|im_end|>"]
    ids = [*letters, tokenizer.token_to_id("<|im_end|>")]
    shown = drawn(speller, [PreparedRow(1, ids, ids)]).splitlines()
    assert shown[4:] == [
        "<⟦|im_end|>⟪<|im_end|>⟫⟧",
        "",
        "1 row, 11 tokens, 10 trained (91%), and as one micro-batch 0 padding (0% of it)",
    ]


def test_an_id_beyond_the_vocabulary_is_said(speller: Speller) -> None:
    (run,) = spell_runs([99_999], [False], speller)
    assert (run.text, run.special) == ("[id 99999 is not in the vocabulary]", True)


def test_sentencepiece_tokens_are_spelled_with_their_spaces_and_bytes() -> None:
    vocabulary = {"<unk>": 0, "▁Hello": 1, "▁": 2, "<0xE2>": 3, "<0x82>": 4, "<0xAC>": 5}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    runs = spell_runs([1, 2, 3, 4, 5], [True] * 5, Speller(tokenizer))
    assert [run.text for run in runs] == [" Hello", " ", "€"]


def test_nothing_predicts_the_first_token_of_a_sample(tokenizer: Tokenizer, speller: Speller) -> None:
    ids = tokenizer.encode("abc").ids
    (shown,) = show_rows([PreparedRow(1, ids * 2, ids * 2, [3, 3])], speller)
    assert [[run.trained for run in sample.runs] for sample in shown.samples] == [[False, True, True]] * 2


# --- characters


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a b", "a b"),
        (" a  b ", "␣a␣␣b␣"),
        ("a \n\tb", "a␣⏎\n⇥b"),
        ("\x1b[31m\x07\r\n", "⟨U+001B⟩[31m⟨U+0007⟩⟨U+000D⟩⏎\n"),
        ("\u202eabc\u2066\u200b\ufeff\u00a0", "⟨U+202E⟩abc⟨U+2066⟩⟨U+200B⟩⟨U+FEFF⟩⟨U+00A0⟩"),
        ("⟦not ours⟧ ⏎", "⟨U+27E6⟩not ours⟨U+27E7⟩ ⟨U+23CE⟩"),
        ("e\u0301 Z\u0300\u0301\u0302\u0303", "e\u0301 Z\u0300\u0301⟨U+0302⟩⟨U+0303⟩"),
        ("\u0301e", "◌\u0301e"),
        ("\u2028\u0085\udce2", "⟨U+2028⟩⟨U+0085⟩⟨E2⟩"),
    ],
)
def test_what_would_not_show_is_written_out(text: str, written: str) -> None:
    assert "".join(part for _, part in visible(text)) == written


@given(st.text())
def test_no_text_can_draw_on_the_terminal(text: str) -> None:
    for _, part in visible(text):
        assert all(character.isprintable() or character == "\n" for character in part)


# --- the terminal


def test_rows_are_drawn_as_one_padded_micro_batch(tokenizer: Tokenizer, speller: Speller) -> None:
    rows = [
        chat(tokenizer, 3, "What?", "No.\n\n  - [bold]one[/bold]\n", source="chats.jsonl:17"),
        chat(tokenizer, 4, "What?", "No.", source="chats.jsonl:18", cut=20),
    ]
    assert drawn(speller, rows) == (
        "⟦trained⟧  context  ⟪special token⟫  ⏎ newline  ⇥ tab  ␣ space at an edge\n"
        "⟨U+202E⟩ character that would not show\n"
        "\n"
        f"{ruled('━━ row 3 · chats.jsonl:17', '45 tokens, 25 trained (56%)', 80)}\n"
        "⟪<|im_start|>⟫user⏎\n"
        "What?⟪<|im_end|>⟫⏎\n"
        "⟪<|im_start|>⟫assistant⏎\n"
        "⟦No.⏎\n"
        "⏎\n"
        "␣␣- [bold]one[/bold]⏎\n"
        "⟪<|im_end|>⟫⟧⏎\n"
        "\n"
        f"{ruled('━━ row 4 · chats.jsonl:18', '24 tokens, 4 trained (17%), 20 cut off', 80)}\n"
        "⟪<|im_start|>⟫user⏎\n"
        "What?⟪<|im_end|>⟫⏎\n"
        "⟪<|im_start|>⟫assistant⏎\n"
        "⟦No.⟪<|im_end|>⟫⟧⏎\n"
        "· x 21 padding\n"
        "\n"
        "2 rows, 69 tokens, 29 trained (42%), and as one micro-batch 21 padding (23% of\n"
        "it)\n"
    )


def test_the_samples_of_a_packed_row_are_ruled_off(tokenizer: Tokenizer, speller: Speller) -> None:
    rows = [
        packed(
            chat(tokenizer, 1, "What?", "No.", source="a:1"), chat(tokenizer, 1, "Why?", "So.", source="b:7")
        )
    ]
    assert drawn(speller, rows, width=60).splitlines()[3:] == [
        ruled("━━ row 1", "49 tokens, 8 trained (16%)", 60),
        "── sample 1 of 2, 24 tokens, 4 trained · a:1 ───────────────",
        "⟪<|im_start|>⟫user⏎",
        "What?⟪<|im_end|>⟫⏎",
        "⟪<|im_start|>⟫assistant⏎",
        "⟦No.⟪<|im_end|>⟫⟧⏎",
        "── sample 2 of 2, 25 tokens, 4 trained · b:7 ───────────────",
        "⟪<|im_start|>⟫user⏎",
        "Why?⟪<|im_end|>⟫⏎",
        "⟪<|im_start|>⟫assistant⏎",
        "⟦So.⟪<|im_end|>⟫⟧⏎",
        "",
        "1 row, 49 tokens, 8 trained (16%), packed: no padding",
    ]


def test_colours_say_the_same_without_signs(tokenizer: Tokenizer, speller: Speller) -> None:
    rows = [chat(tokenizer, 1, "What?", "No.")]
    coloured = drawn(speller, rows, colour=True)
    assert "\x1b[1;32mNo.\x1b[0m\x1b[1;7;32m<|im_end|>\x1b[0m\x1b[2m⏎\x1b[0m\n" in coloured
    assert "\x1b[2mWhat?\x1b[0m\x1b[2;7m<|im_end|>\x1b[0m\x1b[2m⏎\x1b[0m\n" in coloured
    plain = Text.from_ansi(coloured).plain
    assert not set("⟦⟧⟪⟫") & set(plain)


def test_each_token_has_a_line_where_tokens_are_asked_for(tokenizer: Tokenizer, speller: Speller) -> None:
    rows = [row(tokenizer, 1, ("<|im_start|>ü", False), (" \n<|im_end|>", True))]
    assert drawn(speller, rows, tokens=True).splitlines()[3:] == [
        ruled("━━ row 1", "6 tokens, 3 trained (50%)", 80),
        "     0       1 context  ⟪<|im_start|>⟫",
        "     1     130 context  ü (part 1 of 2)",
        "     2     123 context  ü (part 2 of 2)",
        "     3     223 trained  ␣",
        "     4     201 trained  ⏎",
        "     5       2 trained  ⟪<|im_end|>⟫",
        "",
        "1 row, 6 tokens, 3 trained (50%), and as one micro-batch 0 padding (0% of it)",
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_no_line_is_wider_than_the_terminal(tokenizer: Tokenizer, speller: Speller, width: int) -> None:
    rows = [
        chat(tokenizer, 1, "Was? 日本語 " * 9, "x" * 200, source="/data/" + "long/" * 30 + "chats.jsonl:17"),
        packed(chat(tokenizer, 1, "What?", "No.", source="directory/" * 9)),
    ]
    for tokens in (False, True):
        for line in drawn(speller, rows, width=width, tokens=tokens).splitlines():
            assert Text(line).cell_len <= width


def test_rows_that_the_collator_joins_have_no_padding(tokenizer: Tokenizer, speller: Speller) -> None:
    rows = [row(tokenizer, 1, ("abc", True)), row(tokenizer, 2, ("a", True))]
    assert [one.padding for one in show_rows(rows, speller)] == [0, 2]
    assert [one.padding for one in show_rows(rows, speller, pad_to_multiple_of=8)] == [5, 7]
    assert [one.padding for one in show_rows(rows, speller, joined=True)] == [0, 0]


@pytest.mark.parametrize(
    ("part", "whole", "written"),
    [
        (0, 0, "0%"),
        (0, 5, "0%"),
        (5, 5, "100%"),
        (1, 3, "33%"),
        (1, 200, "0.5%"),
        (1, 10_000, "<0.1%"),
        (9_999, 10_000, ">99.9%"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(part: int, whole: int, written: str) -> None:
    assert share(part, whole) == written
