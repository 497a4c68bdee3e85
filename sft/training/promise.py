"""What a kill at any moment can cost a run at most: said at its start, and held by the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """The most steps that a kill can cost.

    Attributes:
        steps: None where the run file sets no bound.
        text: the same for people.
    """

    steps: int | None
    text: str


def promised_steps(
    save_strategy: str,
    *,
    save_steps: int,
    steps_per_epoch: int | None,
    max_steps: int,
    background: bool,
) -> Promise:
    """Return what a kill at any moment can cost.

    A checkpoint counts once it is complete. Where it is written in the background, training goes on until the next
    save, which waits for it: so the most that can be lost is twice the interval, less than that unless a write
    takes as long as the interval.

    Args:
        save_steps: in steps, not as a share of the run.
        steps_per_epoch: None where the data does not say.
        background: whether training goes on while a checkpoint is written.
    """
    match save_strategy:
        case "steps" if save_steps > 0:
            every, name = save_steps, "save_steps"
        case "epoch" if steps_per_epoch is not None:
            every, name = steps_per_epoch, "save_strategy: epoch"
        case "best":
            what = "what was trained since the best evaluation (save_strategy: best)"
            return Promise(None, f"a kill at any moment loses {what}; save_strategy: steps would bound it")
        case _:
            what = f"everything that was trained (save_strategy: {save_strategy})"
            return Promise(None, f"a kill at any moment loses {what}; save_strategy: steps would bound it")
    if every >= max_steps:
        text = f"a kill at any moment loses everything that was trained: the first save comes at the end ({name})"
        return Promise(max_steps, text)
    text = f"a kill at any moment loses at most {_steps(every)} ({name})"
    most = every
    if background:
        most = min(2 * every, max_steps)
        text += f", or up to {most} while a checkpoint is still being written"
    return Promise(most, text)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
