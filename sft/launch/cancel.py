"""Stop a run from outside: in the queue, in its job, or on this machine."""

from __future__ import annotations

import os
import signal
import socket

from sft.errors import ExitCode, UserError
from sft.launch import slurm
from sft.launch.lock import holder_of
from sft.launch.queue import note, read_book
from sft.launch.stop import write_stop_file
from sft.rundir import RunDirectory

REASON = "sft cancel"


def cancel(run: RunDirectory, *, now: bool) -> list[str]:
    """Stop a run, in order or at once, and say what was done.

    Raises:
        UserError: nothing runs or waits there, or it cannot be reached from here.
    """
    told = _cancel_jobs(run, now=now)
    if not told:
        told = [_cancel_process(run, now=now)]
    return told


def _cancel_jobs(run: RunDirectory, *, now: bool) -> list[str]:
    book, told = read_book(run), []
    for job in reversed(book.chain or book.jobs[-1:]):
        state = slurm.state_of(job)
        if state.is_over:
            continue
        # So that the script does not send it back into the queue.
        note(run, "cancelled", job=job)
        if now or state.is_waiting:
            slurm.cancel(job)
            told.append(f"job {job} is cancelled" + ("" if now else ": it had not begun"))
        else:
            slurm.ask_to_stop(job)
            told.append(f"job {job} saves a checkpoint and ends; `sft watch {run.output_dir}` shows it")
    return told


def _cancel_process(run: RunDirectory, *, now: bool) -> str:
    """Ask the launch that holds the run directory."""
    holder = holder_of(run)
    if holder is None:
        raise UserError(
            "nothing runs or waits there",
            str(run.output_dir),
            f"sft status {run.output_dir} says how it ended",
        )
    pid, host = int(holder["pid"]), str(holder["host"])
    if host != socket.gethostname():
        if now:
            raise UserError(
                f"the run is process {pid} on {host}, which cannot be ended at once from here",
                str(run.lock),
                f"ssh {host} kill -KILL {pid}, or without --now: it saves and ends",
                exit_code=ExitCode.ENVIRONMENT,
            )
        write_stop_file(run, REASON)
        return f"process {pid} on {host} saves a checkpoint and ends at the end of a step"
    os.kill(pid, signal.SIGKILL if now else signal.SIGTERM)
    return f"process {pid} is ended" if now else f"process {pid} saves a checkpoint and ends"
