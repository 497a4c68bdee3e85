"""Lines for a person's terminal: broken where it ends, and in colour where it has any. Elsewhere they are as they are."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Literal, TextIO

NARROWEST = 40
LABEL = re.compile(r"  (?:where:|fix:|log:) +")
"""The second and third line of a problem, whose text is broken below its beginning."""

Style = Literal["", "bold red", "yellow", "green", "dim"]


def show(lines: Iterable[str], stream: TextIO, style: Style = "") -> None:
    """Print lines. NO_COLOR, TERM and FORCE_COLOR are heeded."""
    if not stream.isatty():
        print("\n".join(lines), file=stream)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    for line in wrapped(lines):
        console.print(Text(line, style=style), soft_wrap=True)


def wrapped(lines: Iterable[str]) -> Iterator[str]:
    """Break lines that are longer than the terminal is wide, but for tables, which are indented."""
    width = max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)
    for line in lines:
        label = LABEL.match(line)
        if len(line) <= width or (line.startswith("  ") and label is None):
            yield line
            continue
        indent = " " * len(label[0]) if label is not None else "      "
        yield from textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
