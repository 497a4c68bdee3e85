"""One worker of a run on Cloudera's platform: what it runs, and what is known of it.

`_sft/workers/` holds `workers.json`, which the process that holds the run keeps, and `N.code` once worker N has ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sft.files import write_whole
from sft.launch.cml_api import OVER, WorkerId
from sft.launch.said import read_object
from sft.rundir import RunDirectory

PASSED = (
    "SFT_SITE", "SFT_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_XET", "WANDB_MODE", "OMP_NUM_THREADS", "PYTHONPATH",
)  # fmt: skip
"""What a worker gets of this session's variables, if they are set. Tokens are not among them: a project's own variables
reach its workers without us."""
CODE = """\
import pathlib, subprocess
code = subprocess.call({words!r})
pathlib.Path({place!r}).write_text(str(code))
if code:
    raise SystemExit(code)
"""


@dataclass(slots=True)
class Worker:
    """One machine besides machine 0.

    Attributes:
        status: the platform's word.
        is_listed: whether the platform has told of it yet.
        has_begun: whether it runs, or has run.
        code: what it ended with, once it has said so.
        log_start: where its log begins in a file that earlier launches have written to.
        asked: when it was asked for.
        over_since: when it was first seen to be over. Both are CLOCK_MONOTONIC.
    """

    rank: int
    id: WorkerId
    status: str = "asked for"
    is_listed: bool = False
    has_begun: bool = False
    code: int | None = None
    log_start: int = 0
    asked: float = 0.0
    over_since: float | None = None

    @property
    def called(self) -> str:
        """Its name for people."""
        return f"worker {self.rank} ({self.id})"

    @property
    def is_over(self) -> bool:
        """Whether it has ended, by its own word or the platform's."""
        return self.code is not None or self.status in OVER

    @property
    def end(self) -> str:
        """How it has ended, in words."""
        return f"ended with {self.code}" if self.code is not None else f"is {self.status}"

    def take(self, run: RunDirectory, statuses: Mapping[str, str] | None, now: float) -> None:
        """Take in what it has written, and what the platform says of all workers, if it was asked and answered."""
        if statuses is not None:
            known = statuses.get(str(self.id))
            self.status = known or ("gone" if self.is_listed else self.status)
            self.is_listed = self.is_listed or known is not None
        log = node_log(run, self.rank)
        self.has_begun = self.has_begun or self.status == "running" or _size(log) > self.log_start
        self.code = _code(code_file(run, self.rank))
        if self.is_over and self.over_since is None:
            self.over_since = now


def begin(run: RunDirectory) -> None:
    """Forget the workers of an earlier launch."""
    for path in [_book(run), *_book(run).parent.glob("*.code")]:
        path.unlink(missing_ok=True)
    _book(run).parent.mkdir(parents=True, exist_ok=True)


def new_worker(run: RunDirectory, rank: int, id: WorkerId, now: float) -> Worker:
    """Note a worker that the platform has just taken on."""
    return Worker(rank, id, log_start=_size(node_log(run, rank)), asked=now)


def write_workers(run: RunDirectory, workers: Sequence[Worker]) -> None:
    """Keep what is known, for `sft status` and for who has to stop them."""
    write_whole(_book(run), json.dumps({"workers": [asdict(worker) for worker in workers]}) + "\n")


def read_workers(run: RunDirectory) -> list[Worker]:
    """Read what is known of the newest launch's workers."""
    said = read_object(_book(run)) or {}
    return [Worker(**worker) for worker in said.get("workers", [])]


def machine_command(script: Path, rank: int, address: str, port: int) -> list[str]:
    """Return what a machine runs: the script, with its rank and the place of machine 0."""
    return ["bash", str(script), "machine", str(rank), address, str(port)]


def code_of(run: RunDirectory, script: Path, rank: int, address: str, port: int) -> str:
    """Return the Python that a worker runs: the script, whose exit code it writes and ends with."""
    words = machine_command(script, rank, address, port)
    return CODE.format(words=words, place=str(code_file(run, rank)))


def passed(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that a worker gets."""
    return {name: environment[name] for name in PASSED if name in environment}


def node_log(run: RunDirectory, rank: int) -> Path:
    """Return what a worker prints to."""
    return run.logs / f"node-{rank}.log"


def code_file(run: RunDirectory, rank: int) -> Path:
    """Return where a worker writes what it ended with."""
    return _book(run).with_name(f"{rank}.code")


def _book(run: RunDirectory) -> Path:
    return run.kit / "workers" / "workers.json"


def _code(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet, or not whole
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
