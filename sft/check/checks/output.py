"""The run directory can be written, is no other's, and is where every machine of the run sees it."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sft.check.filesystem import node_local
from sft.check.finding import Finding, error, warning
from sft.check.subject import Subject
from sft.check.try_writing import above, inodes_left, refusal
from sft.errors import ExitCode
from sft.launch.lock import holder_of

NAME = "run directory"
COST = "writes 4 KiB to a file without a name; the table of mounts"
NEEDS = "nothing"

LONGEST_NAME = 255
LONGEST_PATH = 4096 - 160
"""What Linux takes, less the longest that is written below: checkpoints of sharded optimizers."""
FEW_FILES = 1000
"""A checkpoint of many ranks has some hundred."""


def look(subject: Subject) -> Iterator[Finding]:
    """Look at the place; what lies in it already is looked at beside that."""
    output, where = subject.config.run.output_dir, subject.where("output_dir")
    wrong = _name(output)
    if wrong is not None:
        yield error(f"output_dir cannot be a directory's name: {wrong}", where, "set another output_dir")
        return
    if str(output) in subject.unreachable:
        return  # told with the plan
    if found := refusal(output):
        place, reason = found
        yield error(
            f"output_dir {output} cannot be written: {place}: {reason}"
            if place != output
            else f"output_dir {output} cannot be written: {reason}",
            where,
            "set output_dir to a directory of yours that has room and that every node sees",
            exit_code=ExitCode.ENVIRONMENT,
        )
        return
    yield from _inodes(output, where)
    yield from _model(subject, output, where)
    yield from _place(subject, output, where)
    yield from _holder(subject, output)


def _name(output: Path) -> str | None:
    text = str(output)
    if any(character in text for character in "\n\r\0"):
        return "it holds a line break, which the scripts that name it cannot"
    if len(os.fsencode(text)) > LONGEST_PATH:
        return f"it has {len(os.fsencode(text)):,} bytes, and {LONGEST_PATH:,} leave room for what lies below"
    longest = max(output.parts, key=lambda part: len(os.fsencode(part)))
    if len(os.fsencode(longest)) > LONGEST_NAME:
        return f"{longest[:24]}... has {len(os.fsencode(longest)):,} bytes, and a name has {LONGEST_NAME} at most"
    return None


def _inodes(output: Path, where: str) -> Iterator[Finding]:
    left = inodes_left(output)
    if left is not None and left < FEW_FILES:
        say = error if left < 20 else warning
        yield say(
            f"the file system of output_dir takes {left:,} more files, whatever their size (`df -i`)",
            f"{where}, {above(output)}",
            "remove old checkpoints or environments there, or set output_dir to another file system",
        )


def _model(subject: Subject, output: Path, where: str) -> Iterator[Finding]:
    """Tell a run that writes over the model that it reads."""
    name = subject.config.model.model_name_or_path or ""
    if not os.path.isdir(name):
        return
    model, output = Path(name).resolve(), output.resolve()
    if model == output:
        yield error(
            "output_dir is the directory of the model: what is trained would be written over it",
            where,
            "set another output_dir",
        )
    elif output in model.parents and model.relative_to(output).parts[0].startswith("checkpoint-"):
        yield error(
            f"the model is a checkpoint in output_dir, {model.name}: the run would continue from the newest there, and"
            " save_total_limit would delete it",
            where,
            "set another output_dir; to go on with that run, name its model and launch it as it was",
        )
    elif model in output.parents:
        yield warning(
            "output_dir lies within the directory of the model: who copies or uploads the model takes the run along",
            where,
            "set another output_dir",
        )


def _place(subject: Subject, output: Path, where: str) -> Iterator[Finding]:
    """Tell a directory that the other machines, or the batch job, do not see."""
    nodes = subject.config.launch.nodes
    is_remote = subject.in_batch and subject.on == "slurm"
    reason = node_local(output, subject.environment) if nodes > 1 or is_remote else None
    if reason is None:
        return
    who = f"the {nodes} machines of the run share" if nodes > 1 else "the batch job is to write to"
    # A cluster may be this one machine: that is known to its user, and not here.
    yield warning(
        f"output_dir {output} is not what {who}: {reason}",
        where,
        "set output_dir to a file system that every node mounts",
    )


def _holder(subject: Subject, output: Path) -> Iterator[Finding]:
    """Tell a run that is going on there. The launches on the other machines of one run find machine 0's there."""
    launch, lock = subject.config.launch, subject.config.run.lock
    if subject.on != "here":
        return  # whoever submits is told of the job that runs there
    if launch.machine_rank > 0 or not lock.is_file() or not stat.S_ISREG(lock.stat().st_mode):
        return
    holder = holder_of(subject.config.run)
    if holder is None or not _is_held(lock):
        return
    say = warning if subject.in_batch else error  # a job in the queue may begin when that run has ended
    pid, host = holder.get("pid"), holder.get("host")
    yield say(
        f"the run directory is in use by process {pid} on {host} (since {holder.get('started')})",
        str(lock),
        f"wait for it to end, stop it in order with `kill {pid}` on {host}, or choose another output_dir",
    )


def _is_held(lock: Path) -> bool:
    """Ask for the lock, and give it back; where the file system has none, its content counts."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
