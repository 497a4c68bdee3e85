"""Draw shown rows as one HTML page that needs nothing else: no network, no fonts, no other file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sft.data.screen import batch_sums, count, share
from sft.data.spelling import Mark, in_one_line
from sft.data.view import ShownRow, ShownSample, TokenRun, written_runs

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, slots=True)
class _DrawnRun:
    """One token, or those of one character, as the template draws it."""

    classes: str
    title: str
    parts: Sequence[tuple[Mark, str]]


def render_page(rows: Sequence[ShownRow], *, title: str, facts: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        title: what is shown, in a line.
        facts: name -> value, listed at the top: the run file, the model, the split.
    """
    return _template().render(
        title=title,
        facts={name: in_one_line(value) for name, value in facts.items()},
        sums=batch_sums(rows),
        rows=[_row(row) for row in rows],
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    text = Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _row(row: ShownRow) -> dict[str, object]:
    """Say of a row what the template draws."""
    return {
        "number": row.number,
        "tokens": count(row.tokens, "token"),
        "trained": f"{row.trained:,} trained ({share(row.trained, row.tokens)})",
        "percent": f"{100 * row.trained / max(1, row.tokens):.2f}%",
        "cut": f"{row.cut:,} cut off" if row.cut else "",
        "packed": f"{count(len(row.samples), 'sample')} packed" if row.packed else "",
        "padding": f"{row.padding:,}" if row.padding else "",
        "samples": [_sample(sample) for sample in row.samples],
    }


def _sample(sample: ShownSample) -> dict[str, object]:
    return {
        "tokens": count(sample.tokens, "token"),
        "trained": f"{sample.trained:,} trained",
        "source": in_one_line(sample.source) if sample.source else "",
        "runs": list(_runs(sample)),
    }


def _runs(sample: ShownSample) -> Iterator[_DrawnRun]:
    for run, parts in written_runs(sample):
        classes = "t" + (" y" if run.trained else "") + (" s" if run.special else "")
        yield _DrawnRun(classes, token_title(run), parts)


def token_title(run: TokenRun) -> str:
    """Say everything of a token: what is shown when it is pointed at."""
    last = run.index + len(run.ids) - 1
    one = len(run.ids) == 1
    spelled = in_one_line(run.text)
    names = " ".join(in_one_line(name) for name in run.names)
    told = [
        f"token {run.index}" if one else f"tokens {run.index}-{last}",
        f"{'id' if one else 'ids'} {' '.join(map(str, run.ids))}",
        f"“{spelled}”" + (f" ({names} in the vocabulary)" if names != spelled else ""),
        *(["special"] if run.special else []),
        "trained" if run.trained else "context, no loss",
    ]
    return " · ".join(told)
