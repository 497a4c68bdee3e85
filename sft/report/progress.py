"""Show a run to a person: one live line on a terminal, plain lines in a log file.

rich is loaded only for a live line, and no thread is started: whoever has a printer calls `tick` now and
then to keep the clock moving.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TextIO

from sft.events import Event
from sft.report.lines import PHASES, clock, measures, number, ordinary_line, plain_line, step_text

if TYPE_CHECKING:
    from rich.live import Live

BAR_WIDTH = 20


@dataclass(frozen=True, slots=True)
class View:
    """What the live line knows: the phase, the last `log` event, and when (monotonic) each began."""

    phase: str = "load"
    phase_since: float = 0.0
    log: Event = field(default_factory=dict)
    log_since: float = 0.0

    def after(self, event: Event, now: float) -> View:
        """Take one event in."""
        match event.get("event"):
            case "phase" if event.get("phase") != self.phase:
                return replace(self, phase=str(event.get("phase")), phase_since=now)
            case "log" if "loss" in event:
                # A loss is logged in training alone, and nothing says that an evaluation is over.
                since = self.phase_since if self.phase == "train" else now
                return replace(self, phase="train", phase_since=since, log=event, log_since=now)
        return self


def live_line(view: View, now: float, width: int) -> str:
    """Write the live line, at most `width` columns: what matters least is left out first."""
    name = PHASES.get(view.phase, view.phase)
    if view.phase != "train" or not view.log:
        waited = clock(now - view.phase_since)
        parts = [name, *([step] if (step := step_text(view.log)) else []), waited]
        return "  ".join(parts)[:width]
    event = dict(view.log)
    if (left := number(event.get("seconds_left"))) is not None:
        event["seconds_left"] = max(0.0, left - (now - view.log_since))
    fields = {"name": name, "bar": _bar(event), **measures(event)}
    for spare in ("", "bar", "name", "peak", "learning_rate", "speed", "left"):
        fields.pop(spare, None)
        line = "  ".join(text for text in fields.values() if text)
        if len(line) <= width:
            break
    return line[:width]


def _bar(event: Event) -> str:
    step, last = number(event.get("step")), number(event.get("max_steps"))
    if step is None or not last or last <= 0:
        return ""
    done = min(BAR_WIDTH, int(BAR_WIDTH * step / last))
    return "━" * done + "╌" * (BAR_WIDTH - done)


class ProgressPrinter:
    """Show events on one stream, as a live line where the stream is a terminal.

    Args:
        live: whether to draw a live line; None asks the stream. A process whose stream other code prints to
            as well (a rank that runs without the supervisor) does better with False.
    """

    def __init__(self, stream: TextIO, *, live: bool | None = None) -> None:
        self.stream = stream
        self.live = stream.isatty() and os.environ.get("TERM") != "dumb" if live is None else live
        self._view = View(phase_since=time.monotonic())
        self._phase_said: str | None = None
        self._drawn: Live | None = None
        self._closed = False

    def show(self, event: Event) -> None:
        """Show one event: as a line that stays, in the live line, or not at all."""
        if self.live:
            self._view = self._view.after(event, time.monotonic())
            line = ordinary_line(event)
        else:
            line = plain_line(event)
            if event.get("event") == "phase" and line is not None:
                # The phase that an evaluation or a save comes back to was said before.
                line, self._phase_said = (None if line == self._phase_said else line), line
        if line is not None:
            self.say(line)
        elif self.live:
            self.tick()

    def say(self, text: str) -> None:
        """Print lines that stay, above the live line where there is one."""
        if self.live and not self._closed:
            console = self._draw().console
            console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def tick(self) -> None:
        """Draw the live line again; nothing where there is none."""
        if self.live and not self._closed:
            self._draw().refresh()

    def close(self) -> None:
        """Take the live line away, so that what follows starts on a clean line."""
        self._closed = True
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None

    def _draw(self) -> Live:
        """Start the live line on its first use: rich is loaded while the launcher already starts."""
        if self._drawn is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self.stream, force_terminal=True)
            self._drawn = Live(
                _LiveText(self),
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._drawn.start()
        return self._drawn


class _LiveText:
    """What rich draws: a spinner and the live line, cut to the width of the terminal."""

    def __init__(self, printer: ProgressPrinter) -> None:
        from rich.spinner import Spinner

        self._printer = printer
        self._spinner = Spinner("dots", style="cyan")

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        line = live_line(self._printer._view, time.monotonic(), options.max_width - 3)
        if options.ascii_only:
            line = line.replace("━", "#").replace("╌", "-")
        text = Text(line, no_wrap=True, overflow="crop", end="")
        text.highlight_regex("[━#]+", "green")
        text.highlight_regex("╌+", "dim")
        self._spinner.update(text=text)
        yield self._spinner
