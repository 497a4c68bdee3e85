"""A process that has imported everything and is forked for each case: a launch's ranks in a second instead of fifteen.

It reads one case a line from its standard input and answers each with a line: how its ranks ended. The ranks run the
recipe as a launcher starts it (`sft.training.train.main`); only the save at one step is watched, and goes wrong.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.shim import Shim

KILLED = -signal.SIGKILL


@dataclass
class Case:
    """What to run, and what goes wrong in it.

    Attributes:
        words: overrides of the run file.
        fault: rank, group, number and error of the call that fails; the error 0 kills. None: nothing does.
        step: the save that is watched.
        traces: where each rank's calls are told, `rank-N.txt`.
        limit: seconds for all of it.
        patience: seconds in which the other ranks of one that was killed must end.
        clock_goes_back: the time of day jumps an hour back, every time that it is asked for, from the watched save on.
    """

    run_yaml: str
    environment: dict[str, str]
    ranks: int
    traces: str
    words: list[str] = field(default_factory=list)
    fault: tuple[int, str, int, int] | None = None
    step: int = 4
    limit: float = 60.0
    patience: float = 20.0
    clock_goes_back: bool = False


@dataclass
class Ended:
    """How the ranks of a case ended: exit codes, negative for signals; `hung` had to be ended by us."""

    codes: list[int]
    hung: list[int]
    seconds: float


def run(case: Case) -> Ended:
    """Fork the ranks of a case and wait for them."""
    began = time.monotonic()
    Shim().disarm()
    port = _free_port()
    pids = [_fork(case, rank, port) for rank in range(case.ranks)]
    codes: dict[int, int] = {}
    hung: list[int] = []
    deadline = began + case.limit
    while len(codes) < case.ranks:
        for rank, pid in enumerate(pids):
            if rank in codes:
                continue
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[rank] = os.waitstatus_to_exitcode(status)
                if codes[rank] != 0:
                    deadline = min(deadline, time.monotonic() + case.patience)
        if len(codes) < case.ranks and time.monotonic() > deadline:
            left = [rank for rank in range(case.ranks) if rank not in codes]
            for rank in left:
                os.kill(pids[rank], signal.SIGKILL)
                codes[rank] = os.waitstatus_to_exitcode(os.waitpid(pids[rank], 0)[1])
            hung = left
        time.sleep(0.005)
    _remove_scratch(pids)
    return Ended([codes[rank] for rank in range(case.ranks)], hung, time.monotonic() - began)


def _fork(case: Case, rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = _be_rank(case, rank, port)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _be_rank(case: Case, rank: int, port: int) -> int:
    os.environ.update(case.environment)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": case.ranks, "LOCAL_WORLD_SIZE": case.ranks}
    if case.ranks > 1:
        os.environ.update({name: str(number) for name, number in numbers.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    from sft.training.train import main

    _watch(case, rank)
    try:
        main(["--config", case.run_yaml, *case.words])
    except SystemExit as ended:
        return int(ended.code or 0)
    _tell_modules(Path(case.traces) / "modules.json", rank)
    return 0


def _watch(case: Case, rank: int) -> None:
    """Watch the run directory from the moment that the save at `step` begins; until the next one, calls may fail."""
    from sft.training.saving import Saver

    shim, save = Shim(), Saver.save
    run_directory = Path(case.run_yaml).parent.parent

    def watched(self: Any, trainer: Any, saving: Any) -> None:
        if trainer.state.global_step == case.step:
            if case.fault is not None and case.fault[0] == rank:
                shim.arm(*case.fault[1:])
            if case.clock_goes_back:
                _turn_back_time()
            shim.watch(run_directory, Path(case.traces) / f"rank-{rank}.txt")
        elif trainer.state.global_step > case.step:
            self.finish(trainer.args)
            shim.disarm()
        save(self, trainer, saving)

    Saver.save = watched  # type: ignore[method-assign]


def _turn_back_time() -> None:
    right, asked = time.time, itertools.count(1)
    time.time = lambda: right() - 3600 * next(asked)


def _tell_modules(path: Path, rank: int) -> None:
    if rank == 0:
        path.write_text(json.dumps([name for name, module in sys.modules.items() if module is not None]))


def _prepare(run_yaml: Path, environment: dict[str, str], modules: list[str]) -> None:
    """Import what a rank has imported by its end, so that those to come find it."""
    from sft.config.loader import load_run
    from sft.training import unused

    os.environ.update(environment)
    unused.leave_out(load_run(run_yaml, []).config)
    for name in modules:
        if name not in sys.modules and not name.startswith(("__main__", "tests.")):
            with suppress(Exception):  # a library's own lazy or optional module
                importlib.import_module(name)
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")  # compiles hundreds of patterns, and keeps them
    gc.collect()
    gc.freeze()  # a trainer collects once it is made: what is there already need not be looked at in each rank


def _threads() -> list[str]:
    """Name the threads besides this one; what is forked lacks them, and would wait for what they hold."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    # The allocator of pyarrow minds forks itself.
    return [name for name in names[1:] if name != "jemalloc_bg_thd"]


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _remove_scratch(pids: list[int]) -> None:
    """Remove what a killed rank left in memory; a later save would after an hour."""
    import shutil

    for pid in pids:
        for left in Path("/dev/shm").glob(f"sft-save-{os.getuid()}-{pid}-*"):
            shutil.rmtree(left, ignore_errors=True)


def main() -> None:
    """Serve cases until the standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        if "modules" in asked:
            _prepare(Path(asked["run_yaml"]), asked["environment"], asked["modules"])
            answer: dict[str, Any] = {"threads": _threads()}
        else:
            answer = asdict(run(Case(**asked)))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
