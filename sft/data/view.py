"""What is shown of prepared rows: every token with its text, and whether it carries loss. Nothing is drawn here.

`sft.data.screen` draws it on a terminal, `sft.data.page` as a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sft.data.spelling import Mark, Speller, readable, unfinished, visible

NO_LOSS = -100
"""The label that torch.nn.CrossEntropyLoss ignores."""


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """One row as training reads it.

    Attributes:
        number: its place in the prepared split, from 1.
        seq_lengths: tokens of each of its samples where rows are packed, else None.
        sources: where its samples stand, file and row, as far as that is known.
        cut: tokens that truncation took.
    """

    number: int
    input_ids: Sequence[int]
    labels: Sequence[int]
    seq_lengths: Sequence[int] | None = None
    sources: tuple[str, ...] = ()
    cut: int = 0


@dataclass(frozen=True, slots=True)
class TokenRun:
    """Consecutive tokens that are drawn as one: a single one, or those that spell a character together.

    Attributes:
        index: place of the first of them in the row, from 0.
        names: each token as the vocabulary writes it.
        text: what they spell. A byte that is no UTF-8 is a lone surrogate.
        special: a token that was added to the vocabulary, rather than text that looks like one.
        trained: they carry loss.
    """

    index: int
    ids: tuple[int, ...]
    names: tuple[str, ...]
    text: str
    special: bool
    trained: bool


@dataclass(frozen=True, slots=True)
class ShownSample:
    """One sample of a row."""

    runs: tuple[TokenRun, ...]
    source: str | None = None

    @property
    def tokens(self) -> int:
        """Count its tokens."""
        return sum(len(run.ids) for run in self.runs)

    @property
    def trained(self) -> int:
        """Count those that carry loss."""
        return sum(len(run.ids) for run in self.runs if run.trained)


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row of a micro-batch. `padding` is how many pad tokens the collator puts behind it."""

    number: int
    samples: tuple[ShownSample, ...]
    packed: bool
    padding: int
    cut: int

    @property
    def tokens(self) -> int:
        """Count its tokens, without padding."""
        return sum(sample.tokens for sample in self.samples)

    @property
    def trained(self) -> int:
        """Count those that carry loss."""
        return sum(sample.trained for sample in self.samples)


def show_rows(
    rows: Sequence[PreparedRow],
    speller: Speller,
    *,
    joined: bool = False,
    pad_to_multiple_of: int | None = None,
) -> list[ShownRow]:
    """Spell the rows as the one micro-batch that the collator would make of them.

    Packed rows are laid behind one another, and others too where `joined`; else they are padded to the longest.
    """
    longest = max((len(row.input_ids) for row in rows), default=0)
    if pad_to_multiple_of:
        longest = -(-longest // pad_to_multiple_of) * pad_to_multiple_of
    return [
        ShownRow(
            row.number,
            tuple(_samples(row, speller)),
            packed=row.seq_lengths is not None,
            padding=0 if joined or row.seq_lengths is not None else longest - len(row.input_ids),
            cut=row.cut,
        )
        for row in rows
    ]


def _samples(row: PreparedRow, speller: Speller) -> Iterator[ShownSample]:
    start = 0
    for number, length in enumerate(row.seq_lengths or [len(row.input_ids)]):
        end = start + length
        # What a model predicts is the next token, so nothing predicts the first of a sample, whatever its label.
        trained = [place > start and row.labels[place] != NO_LOSS for place in range(start, end)]
        source = row.sources[number] if number < len(row.sources) else None
        runs = tuple(spell_runs(row.input_ids[start:end], trained, speller, start))
        yield ShownSample(runs, source)
        start = end


def spell_runs(
    ids: Sequence[int], trained: Sequence[bool], speller: Speller, start: int = 0
) -> Iterator[TokenRun]:
    """Spell tokens, joining those that are parts of one character. `start` is the index of the first."""
    waiting: list[int] = []
    content = b""

    def run(places: Sequence[int], text: str, special: bool) -> TokenRun:
        found = tuple(ids[place] for place in places)
        names = tuple(speller.spell(token_id).name for token_id in found)
        return TokenRun(start + places[0], found, names, text, special, trained[places[0]])

    def give_up() -> Iterator[TokenRun]:
        # The character is never finished: each token is shown with the bytes that it has.
        for place in waiting:
            yield run([place], readable(speller.spell(ids[place]).content), False)

    for place, token_id in enumerate(ids):
        spelling = speller.spell(token_id)
        if waiting and (spelling.special or trained[place] != trained[waiting[0]]):
            yield from give_up()
            waiting, content = [], b""
        if spelling.special:
            yield run([place], spelling.name, True)
            continue
        if waiting and _continues(content, spelling.content):
            waiting.append(place)
            content += spelling.content
        else:
            yield from give_up()
            waiting, content = [place], spelling.content
        if not unfinished(content):
            yield run(waiting, readable(content), False)
            waiting, content = [], b""
    yield from give_up()


def _continues(content: bytes, more: bytes) -> bool:
    """Whether bytes go on with the character that `content` leaves unfinished, without breaking it."""
    joined = content + more
    try:
        joined.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" or error.start >= len(content)
    return True


def written_runs(sample: ShownSample) -> Iterator[tuple[TokenRun, list[tuple[Mark, str]]]]:
    """Give each run with the characters that are drawn for it; spaces are shown where they would not be seen."""
    for place, run in enumerate(sample.runs):
        before = sample.runs[place - 1] if place else None
        after = sample.runs[place + 1] if place + 1 < len(sample.runs) else None
        left = before.text[-1:] if before and not before.special else ""
        right = after.text[:1] if after and not after.special else ""
        yield run, visible(run.text, left, right)
