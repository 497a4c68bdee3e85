"""What a rehearsed run would have pushed: its own outbox, filled by its own code, which nobody delivers.

The ranks and the launch journal each push with its files as they do in a run; HF_HUB_OFFLINE keeps them here. So the files,
their names and the refusals are the real ones. What is not shown is the Hub's own answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sft.check.filesystem import gib
from sft.check.finding import Finding, error, note, warning
from sft.errors import ExitCode
from sft.hub.journal import pending
from sft.hub.snapshot import SnapshotGoneError, held_files
from sft.rundir import RunDirectory

NAMES_SHOWN = 12


def pushed(run: RunDirectory, notes: Sequence[str], where: str) -> Iterator[Finding]:
    """Tell what waits in the outbox of a run that has finished.

    Args:
        notes: what the run has told.
        where: the run file's push_to_hub.
    """
    refused = [text for text in dict.fromkeys(notes) if "not pushed" in text]
    requests = pending(run)
    if not any(request.kind == "end" for request in requests):
        why = f": {'; '.join(refused)}" if refused else ""
        yield error(
            f"a rehearsal of the run fails in its phase push: the finished model would not be pushed{why}",
            where,
            "set push_to_hub: false, or mend what keeps it here",
            exit_code=ExitCode.TRAINING_FAILED,
        )
        return
    yield from (warning(f"a rehearsal of the run: {text}", where) for text in refused)
    for request in requests:
        try:
            files = held_files(run, request)
        except SnapshotGoneError:
            continue
        size = gib(sum(file.path.stat().st_size for file in files))
        names = sorted(file.path_in_repo for file in files)
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        yield note(
            f"rehearsed push of {request.what} to {request.repo}, to nowhere: {len(names)} files, {size} of the cut:"
            f" {', '.join(names[:NAMES_SHOWN])}{more}"
        )
