"""Show what a run changed: the answers side by side, and the held-out loss. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sft.events import read_events


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """The first and the last evaluation of a run."""

    before: float
    after: float


def held_out_loss(events_jsonl: Path) -> HeldOutLoss | None:
    """Read the evaluations of a run; None where it had fewer than two, or did not start with one."""
    losses = [
        (event["step"], float(event["eval_loss"]))
        for event in read_events(events_jsonl)
        if event["event"] == "evaluate" and "eval_loss" in event
    ]
    starts = [index for index, (step, _) in enumerate(losses) if step == 0]
    if not starts or len(losses) - starts[-1] < 2:
        return None
    return HeldOutLoss(losses[starts[-1]][1], losses[-1][1])


def show(
    questions: list[str],
    before: list[str],
    after: list[str],
    loss: HeldOutLoss | None,
    console: Console | None = None,
) -> None:
    """Print the result of the quickstart on stdout."""
    console = console or Console()
    table = Table(show_lines=True, expand=True, title="The same questions, before and after")
    table.add_column("before", ratio=1)
    table.add_column("after", ratio=1)
    for question, old, new in zip(questions, before, after, strict=True):
        asked = Text(question, style="bold")
        table.add_row(Text.assemble(asked, "\n\n", old), Text.assemble(asked, "\n\n", new))
    console.print(table)
    if loss is not None:
        console.print(
            f"held-out loss: {loss.before:.3f} before, {loss.after:.3f} after",
            highlight=False,
            soft_wrap=True,
        )
