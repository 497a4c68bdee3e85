"""The page of shown rows: whole in itself, every token there once, and nothing of a row taken for markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from sft.data.page import render_page, token_title
from sft.data.spelling import Speller
from sft.data.view import NO_LOSS, PreparedRow, ShownRow, TokenRun, show_rows

TEXT = "<|im_start|>user\n</span><script>alert('x')</script> &amp; \"日\" <img src=http://example.com/x>  \u202ex<|im_end|>"
FACTS = {"run file": "<run>.yaml", "model": "tiny"}


class Page(HTMLParser):
    """Collects what a browser would see: elements, attributes, and the text of each token."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tokens: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self._in_row = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.elements.append((tag, given))
        self._in_row = self._in_row or given.get("class") == "row"
        if tag == "span" and self._in_row and "title" in given:
            self.tokens.append((given["class"] or "", given["title"] or "", ""))
            self._open.append("token")
        elif tag in ("span", "i"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("span", "i"):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
        if "token" in self._open:
            classes, title, text = self.tokens[-1]
            self.tokens[-1] = (classes, title, text + data)


@pytest.fixture(scope="module")
def rows(tiny_model: Path) -> list[ShownRow]:
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    ids = tokenizer.encode(TEXT).ids
    labels = [NO_LOSS] * 20 + ids[20:]
    short = PreparedRow(2, ids[:30], labels[:30], sources=("<b>.jsonl:7",), cut=9)
    packed = PreparedRow(3, ids * 2, labels * 2, [len(ids)] * 2, ("a:1", "b:2"))
    speller = Speller(tokenizer)
    return show_rows([PreparedRow(1, ids, labels), short], speller) + show_rows([packed], speller)


@pytest.fixture(scope="module")
def page(rows: list[ShownRow]) -> str:
    return render_page(rows, title="What <run>.yaml trains", facts=FACTS)


def test_the_page_needs_nothing_else(page: str) -> None:
    seen = Page(page)
    loading = {"src", "srcset", "href", "data", "action", "poster", "background", "style"}
    found = [
        (tag, name, value) for tag, given in seen.elements for name, value in given.items() if name in loading
    ]
    assert all(
        name == "style" and re.fullmatch(r"width: \d+\.\d\d%", value or "") for _, name, value in found
    )
    style = page[page.index("<style>") : page.index("</style>")]
    assert not re.search(r"url\(|@import|@font-face|https?:|//", style)
    script = page[page.rindex("<script>") : page.rindex("</script>")]
    assert not re.search(r"fetch|import|XMLHttp|https?:|innerHTML", script)
    assert [
        tag for tag, _ in seen.elements if tag in ("link", "iframe", "img", "object", "embed", "base")
    ] == []
    assert [tag for tag, _ in seen.elements].count("script") == 1
    policy = [given["content"] for tag, given in seen.elements if given.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"]


def test_every_token_is_there_once_and_in_order(page: str, rows: list[ShownRow]) -> None:
    expected = [
        ("t" + (" y" if run.trained else "") + (" s" if run.special else ""), token_title(run))
        for row in rows
        for sample in row.samples
        for run in sample.runs
    ]
    assert [(classes, title) for classes, title, _ in Page(page).tokens] == expected
    places = [re.match(r"tokens? (\d+)(?:-(\d+))?", title) for _, title in expected]
    spans = [(int(found[1]), int(found[2] or found[1])) for found in places if found]
    counted = [place for first, last in spans for place in range(first, last + 1)]
    assert counted == [place for row in rows for place in range(row.tokens)]


def test_a_rows_text_stays_text(page: str) -> None:
    seen = Page(page)
    assert "".join(text for _, _, text in seen.tokens).startswith(
        "<|im_start|>user⏎\n</span><script>alert('x')</script> &amp; \"日\" <img src=http://example.com/x>␣␣⟨U+202E⟩x<|im_end|>"
    )
    assert "What <run>.yaml trains" in seen.text
    assert "<b>.jsonl:7" in seen.text


def test_rows_say_their_sums(page: str) -> None:
    text = " ".join(Page(page).text.split())
    assert "Row 2 <b>.jsonl:7 30 tokens 10 trained (33%) 9 cut off" in text
    assert (
        "Row 3 2 samples packed 174 tokens 134 trained (77%) sample 1 of 2, 87 tokens, 67 trained a:1" in text
    )
    assert "run file <run>.yaml model tiny shown 3 rows, 291 tokens, 211 trained (73%)" in text
    assert "57 padding, to the longest row of the micro-batch" in text


def test_every_token_can_be_reached_without_a_mouse(page: str) -> None:
    seen = Page(page)
    tokens = [given for tag, given in seen.elements if tag == "span" and "title" in given]
    assert {given["tabindex"] for given in tokens} == {"0"}


def test_what_is_pointed_at_tells_id_text_and_loss() -> None:
    run = TokenRun(12, (339,), ("Ġthe",), " the", special=False, trained=True)
    assert token_title(run) == "token 12 · id 339 · “␣the” (Ġthe in the vocabulary) · trained"
    run = TokenRun(13, (165, 248), ("æ", "Ĺ"), "日", special=False, trained=False)
    assert token_title(run) == "tokens 13-14 · ids 165 248 · “日” (æ Ĺ in the vocabulary) · context, no loss"
    run = TokenRun(0, (1,), ("<|im_start|>",), "<|im_start|>", special=True, trained=False)
    assert token_title(run) == "token 0 · id 1 · “<|im_start|>” · special · context, no loss"
