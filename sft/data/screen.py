"""Draw shown rows on a terminal, in colour or with signs alone. Text goes in, text comes out."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sft.data.spelling import ESCAPE, NEWLINE, SPACE, SPECIAL, TAB, TRAINED, in_one_line
from sft.data.view import ShownRow, ShownSample, TokenRun, written_runs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

STYLES = {"trained": "bold green", "context": "dim", "sign": "not bold", "special": "reverse", "rule": "blue"}


def draw(rows: Sequence[ShownRow], *, width: int, colour: bool, tokens: bool = False) -> str:
    """Draw rows with their legend and sums.

    Args:
        colour: draw with colours; else what is trained and what is special stands between signs.
        tokens: a line for each token instead of running text.
    """
    pen = _Pen(width, colour)
    pen.legend(tokens)
    for row in rows:
        pen.line()
        pen.rule(
            " · ".join(["━━", f"row {row.number}", *_sources(row)]).replace("━━ ·", "━━"), row_sums(row), "━"
        )
        for number, sample in enumerate(row.samples, 1):
            if row.packed:
                title = f"── sample {number} of {len(row.samples)}, {sample_sums(sample)}"
                pen.rule(title + (f" · {in_one_line(sample.source)}" if sample.source else ""), "", "─")
            if tokens:
                pen.list(sample)
            else:
                pen.running(sample)
        if row.padding:
            pen.line(f"· x {row.padding:,} padding", STYLES["context"])
    pen.line()
    pen.line(batch_sums(rows))
    return pen.text()


def _sources(row: ShownRow) -> list[str]:
    """Name where a row stands; the samples of a packed row name theirs themselves."""
    return [] if row.packed else [in_one_line(s.source) for s in row.samples if s.source]


def share(part: int, whole: int) -> str:
    """Write a share as a percentage, without rounding something to nothing or nearly all to all."""
    if not whole:
        return "0%"
    percent = 100 * part / whole
    if 0 < percent < 1 or 99 < percent < 100:
        return "<0.1%" if percent < 0.1 else ">99.9%" if percent > 99.9 else f"{percent:.1f}%"
    return f"{percent:.0f}%"


def count(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sample_sums(sample: ShownSample) -> str:
    """Sum up one sample of a packed row."""
    return f"{count(sample.tokens, 'token')}, {sample.trained:,} trained"


def row_sums(row: ShownRow) -> str:
    """Sum up one row."""
    sums = f"{count(row.tokens, 'token')}, {row.trained:,} trained ({share(row.trained, row.tokens)})"
    return sums + (f", {row.cut:,} cut off" if row.cut else "")


def batch_sums(rows: Sequence[ShownRow]) -> str:
    """Sum up the micro-batch."""
    tokens, trained = sum(row.tokens for row in rows), sum(row.trained for row in rows)
    padding = sum(row.padding for row in rows)
    sums = (
        f"{count(len(rows), 'row')}, {count(tokens, 'token')}, {trained:,} trained ({share(trained, tokens)})"
    )
    if any(row.packed for row in rows):
        return f"{sums}, packed: no padding"
    return f"{sums}, and as one micro-batch {padding:,} padding ({share(padding, tokens + padding)} of it)"


class _Pen:
    """Writes lines into a string, through rich's console."""

    def __init__(self, width: int, colour: bool) -> None:
        from rich.console import Console

        self._colour = colour
        self._width = width
        self._file = io.StringIO()
        self._console: Console = Console(
            file=self._file,
            width=width,
            force_terminal=colour,
            color_system="standard" if colour else None,
            no_color=not colour,
            legacy_windows=False,
            highlight=False,
        )

    def text(self) -> str:
        """Return what was written, without the spaces that wrapping left at the ends of lines."""
        lines = self._file.getvalue().replace("\u00a0", " ").split("\n")
        return "\n".join(line.rstrip(" ") for line in lines)

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line, or a paragraph of the console's width."""
        from rich.text import Text

        self._print(Text(text, style=style if self._colour else ""))

    def rule(self, title: str, right: str, dash: str) -> None:
        """Rule a line with a title at its left; what stands at its right gets a line of its own where it must."""
        from rich.cells import cell_len, set_cell_size

        right = f" {right} {dash * 2}" if right else ""
        room = self._width - cell_len(title) - cell_len(right) - 3
        if room < 0 and right:
            self.rule(title, "", dash)
            self.line(right.strip(f" {dash}"), STYLES["rule"])
            return
        if room < 0:
            title = set_cell_size(title, self._width - 2).rstrip() + "…"
        self.line(f"{title} {dash * max(0, room + 2)}{right}".rstrip(), STYLES["rule"])

    def legend(self, tokens: bool) -> None:
        """Say what the colours and signs mean."""
        opening, closing = ("", "") if self._colour else TRAINED
        text = self._empty()
        if tokens:
            self._add(text, [("index", ""), ("id", ""), ("loss", ""), ("token", "")])
        else:
            self._add(text, [(f"{opening}trained{closing}", "trained"), ("context", "context")])
            special = "special token" if self._colour else f"{SPECIAL[0]}special token{SPECIAL[1]}"
            self._add(text, [(special, "context special")])
        signs = [f"{NEWLINE} newline", f"{TAB} tab", f"{SPACE} space at an edge"]
        self._add(text, [(sign, "") for sign in signs])
        self._add(text, [(f"{ESCAPE[0]}U+202E{ESCAPE[1]} character that would not show", "")])
        self._print(text)

    def running(self, sample: ShownSample) -> None:
        """Write a sample as running text."""
        written: list[tuple[str, str]] = []
        inside = False

        def put(text: str, *kinds: str) -> None:
            style = self._style(*kinds)
            if written and written[-1][1] == style:
                written[-1] = (written[-1][0] + text, style)
            else:
                written.append((text, style))

        for run, parts in written_runs(sample):
            base = "trained" if run.trained else "context"
            if run.trained != inside and not self._colour:
                put(TRAINED[run.trained ^ 1])
                inside = run.trained
            if run.special:
                put(self._special(run), base, "special")
            else:
                for mark, text in parts:
                    put(text, base, *(["sign"] if mark == "sign" else []))
        if inside:
            put(TRAINED[1])
        # The sign that ends trained text stays on its line; the last newline is the end of the last line.
        swapped = [(text.replace(f"\n{TRAINED[1]}", f"{TRAINED[1]}\n"), style) for text, style in written]
        if swapped:
            swapped[-1] = (swapped[-1][0].removesuffix("\n"), swapped[-1][1])
        self._print(self._empty().append_tokens(swapped))

    def list(self, sample: ShownSample) -> None:
        """Write a line for each token of a sample."""
        for run in sample.runs:
            base = "trained" if run.trained else "context"
            for place, token_id in enumerate(run.ids):
                text = self._empty()
                text.append(f"{run.index + place:>6} {token_id:>7} {base:<7}  ", self._style(base))
                text.append(self._token(run, place), self._style(base, *(["special"] if run.special else [])))
                self._print(text)

    def _token(self, run: TokenRun, place: int) -> str:
        name = in_one_line(run.text)
        if run.special:
            return self._special(run)
        return name if len(run.ids) == 1 else f"{name} (part {place + 1} of {len(run.ids)})"

    def _special(self, run: TokenRun) -> str:
        name = in_one_line(run.text)
        return name if self._colour else SPECIAL[0] + name + SPECIAL[1]

    def _style(self, *kinds: str) -> str:
        return " ".join(STYLES[kind] for kind in kinds) if self._colour else ""

    def _empty(self) -> Text:
        from rich.text import Text

        return Text(overflow="fold")

    def _add(self, text: Text, entries: Iterable[tuple[str, str]]) -> None:
        for written, kinds in entries:
            if text:
                text.append("  ")
            # Words of one entry stay together.
            text.append(written.replace(" ", "\u00a0"), self._style(*kinds.split()))

    def _print(self, text: Text) -> None:
        self._console.print(text, overflow="fold", markup=False, highlight=False, emoji=False)
