"""What a supervised run shows to a person: its progress, and at the end what went wrong.

A display that fails must not end a training: a terminal that has gone is silence, any other failure is said
once, and the run goes on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from sft.events import Event
from sft.launch.said import RankState, read_tail
from sft.launch.verdict import Verdict
from sft.report.progress import ProgressPrinter
from sft.rundir import RunDirectory

# More than these would push the cause off the screen; their logs lie side by side.
OTHER_RANKS_SHOWN = 8


class Screen:
    """The progress of one launch on one stream.

    Attributes:
        step: the last step that was heard of.
        has_ended: whether the ranks said themselves that the run is over.
    """

    def __init__(self, stream: TextIO) -> None:
        self.step = 0
        self.has_ended = False
        self._stream = stream
        self._printer = ProgressPrinter(stream)
        self._is_broken = False

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(step := event.get("step"), int):
            self.step = step
        self.has_ended = self.has_ended or event.get("event") == "end"
        self._try(lambda: self._printer.show(event))

    def tick(self) -> None:
        """Keep the live line moving."""
        self._try(self._printer.tick)

    def say(self, text: str) -> None:
        """Say something to the user that is no event."""
        self._try(lambda: self._printer.say(text))

    def close(self) -> None:
        """Take the live line away; what is said from now on stands on plain lines."""
        self._try(self._printer.close)

    def _try(self, act: Callable[[], None]) -> None:
        if self._is_broken:
            return
        try:
            act()
        except OSError:
            # The terminal was closed, or the pipe: nobody reads on, and the training is not for the reader.
            self._is_broken = True
        except Exception:
            self._printer = ProgressPrinter(self._stream, live=False)
            problem = traceback.format_exc(limit=-1)
            self._try(lambda: self._printer.say(f"the display failed, the training goes on: {problem}"))
            self._is_broken = True


def report(
    verdict: Verdict,
    states: Mapping[int, RankState],
    run: RunDirectory,
    marks: Mapping[Path, int],
    screen: Screen,
) -> None:
    """Say what went wrong, and end with the log that shows it.

    Args:
        marks: where this launch begins in each log file.
    """
    if verdict.problem is None:
        return
    lines = [str(verdict.problem), *verdict.details]
    if verdict.log is not None:
        lines.append(f"  log:   {verdict.log}")
    if verdict.show_log and verdict.log is not None:
        lines += _other_ranks(states, verdict.log, run)
        # A rank that failed before it took its output over left it in the launcher's log.
        for log in dict.fromkeys((verdict.log, run.launcher_log)):
            if tail := read_tail(log, marks.get(log, 0)):
                lines += [f"the end of {log}:", *tail]
                break
    screen.say("\n".join(lines))


def _other_ranks(states: Mapping[int, RankState], shown: Path, run: RunDirectory) -> list[str]:
    others = [state for rank, state in sorted(states.items()) if run.rank_log(rank) != shown]
    lines = [
        f"  rank {state.rank} {_last_word(state)}: {run.rank_log(state.rank)}"
        for state in others[:OTHER_RANKS_SHOWN]
    ]
    if len(others) > OTHER_RANKS_SHOWN:
        lines.append(f"  and {len(others) - OTHER_RANKS_SHOWN} more ranks: {run.logs}")
    return lines


def _last_word(state: RankState) -> str:
    if state.status == "failed":
        return f"failed too ({state.what})"
    return "had ended" if state.status == "done" else "was ended"
