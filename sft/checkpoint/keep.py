"""Which checkpoints `save_total_limit` lets go."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from sft.checkpoint.find import directories, step_of
from sft.rundir import RunDirectory


def superfluous(steps: Sequence[int], limit: int | None, best: int | None) -> list[int]:
    """Name the steps to delete, oldest first.

    The newest always stays, and so does the best; with a limit of 1 both do, as in transformers.

    Args:
        steps: of the complete checkpoints, in any order.
        limit: how many may stay; None for all.
    """
    if limit is None or limit < 1 or not steps:
        return []
    newest_first = sorted(steps, reverse=True)
    kept = {newest_first[0]} | ({best} & set(steps))
    for step in newest_first:
        if len(kept) >= limit:
            break
        kept.add(step)
    return sorted(set(steps) - kept)


def rotate(run: RunDirectory, limit: int | None, best: int | None) -> list[int]:
    """Delete what the limit lets go, and return its steps. To be called once a new one is complete.

    Each is renamed first, so that a kill in between leaves no torn checkpoint under a checkpoint's name.
    """
    steps = [step for path in directories(run.output_dir) if (step := step_of(path)) is not None]
    gone = superfluous(steps, limit, best)
    for step in gone:
        name = f"checkpoint-{step}"
        doomed = run.staging / f"deleted-{name}"
        run.staging.mkdir(parents=True, exist_ok=True)
        (run.output_dir / name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return gone
