"""Stop a run from outside: in the queue, in its job, or on this machine."""

from __future__ import annotations

from sft.errors import UserError
from sft.launch.platform import job_states
from sft.launch.queue import note
from sft.rundir import RunDirectory


def cancel(run: RunDirectory, *, now: bool) -> list[str]:
    """Stop a run, in order or at once, and say what was done.

    Raises:
        UserError: nothing runs or waits there, or it cannot be reached from here.
    """
    platform, states = job_states(run)
    alive = [state for state in states if not state.is_over]
    if not alive:
        raise UserError(
            "nothing runs or waits there",
            str(run.output_dir),
            f"sft status {run.output_dir} says how it ended",
        )
    told = []
    # The last of a chain first: the next one would begin when the one before it ends.
    for state in reversed(alive):
        # So that the script does not send it back into the queue.
        note(run, "cancelled", job=state.job)
        told.append(platform.stop(run, state, now=now))
    return told
