"""The process that holds a run on Cloudera's workers: `sft job cml RUN`, started by the script of `--on cml`.

1. machine 0 is started here, as its child: it checks the run, and listens for the others
2. the others are asked for, one worker each, once machine 0 is seen to listen where they will look for it
3. machine 0 and the workers meet, train and end as on any platform (`sft.launch.head`); their exit codes and what the
   platform says of them are watched: a worker that does not come, or ends, ends the run
4. however it ends, no worker is left
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from sft.config.kit import LaunchConfig
from sft.config.loader import load_run
from sft.errors import ExitCode, Problem, UserError
from sft.files import write_whole
from sft.launch import cml_room
from sft.launch.cml_api import WorkersApi, find_api, own_address, worker_shape
from sft.launch.cml_worker import (
    Worker,
    begin,
    code_of,
    machine_command,
    new_worker,
    node_log,
    passed,
    write_workers,
)
from sft.launch.process import start_bound
from sft.launch.queue import free_port
from sft.launch.said import read_object, read_tail
from sft.launch.stop import StopRequests
from sft.plan.plan import Plan, read_plan
from sft.rundir import RunDirectory

POLL_SECONDS = 0.2
ASK_SECONDS = 2.0
"""Between two questions to the platform."""
LISTEN_SECONDS = 180.0
"""How long machine 0 may check the run before it listens."""
OWN_WORD_SECONDS, LOST_SECONDS = 5.0, 60.0
"""How long machine 0 may take to say what a worker's end means to it: before they have met, and after."""
LEAVE_SECONDS = 20.0
"""How long workers may take to leave by themselves once the run is over, and to be gone once they are stopped."""
END_SECONDS = 30.0
"""How long machine 0 may take to end where it has nothing to save."""
TAIL_LINES = 15
OWN_CODES = frozenset(code for code in ExitCode if code not in (ExitCode.DONE, ExitCode.BUG))
STATUSES = {ExitCode.DONE: "finished", ExitCode.STOPPED: "stopped"}


def hold(run: RunDirectory, script: Path, address: str = "", port: int = 0) -> int:
    """Start machine 0 and the workers of a run, see them to their end, and return the run's exit code.

    Args:
        script: what each machine runs, with `machine RANK ADDRESS PORT`.
        address: of this session, as the workers reach it; empty for what the platform says.
        port: that the machines meet at; 0 for any that is free.

    Raises:
        UserError: the platform cannot be used; nothing of the run is left.
    """
    launch, plan = load_run(run.submitted_yaml).config.launch, read_plan(run.plan_json)
    with StopRequests(launch.stop_signals) as stop:
        holder = _Holder(run, script, launch, plan, stop)
        try:
            return holder.hold(address or own_address(launch), port or free_port(str(os.getpid())))
        except UserError as error:
            holder.account(int(error.exit_code), error.problems[0])
            raise
        except Exception as failure:
            holder.account(ExitCode.BUG, Problem(f"{type(failure).__name__}: {failure}"))
            raise
        finally:
            holder.clean_up()


class _Holder:
    """One launch, from the first process to the last worker."""

    def __init__(
        self, run: RunDirectory, script: Path, launch: LaunchConfig, plan: Plan, stop: StopRequests
    ) -> None:
        self._run, self._script, self._launch, self._plan, self._stop = run, script, launch, plan, stop
        # What an earlier launch has left is known by its time, as the file system has it.
        self._before = {path: _changed(path) for path in (run.script, run.outcome_json, run.nodes_token)}
        self._machine_0: subprocess.Popen[bytes] | None = None
        self._workers: list[Worker] = []
        self._api: WorkersApi | None = None
        self._asked = 0.0
        self._is_silent = False
        self._kill_at: float | None = None
        self._end: tuple[Problem, int] | None = None

    def hold(self, address: str, port: int) -> int:
        """Return the exit code of the run."""
        begin(self._run)
        api = self._api = find_api()
        # Machine 0 waits for the others as long as the platform may take to start them.
        meet = self._launch.cml.schedule_seconds + self._launch.limits.meet
        words = [*machine_command(self._script, 0, address, port), "--launch.limits.meet", f"{meet:g}"]
        machine_0 = self._machine_0 = start_bound(words, dict(os.environ), sys.stderr.buffer)
        if self._listens(machine_0, address, port):
            self._ask_for_workers(api, address, port)
        code = self._watched(machine_0)
        if code < 0:  # killed
            code = int(ExitCode.STOPPED if self._stop.first else ExitCode.WORKER_LOST)
        problem = None
        if self._end is not None and code in (ExitCode.STOPPED, ExitCode.WORKER_LOST):
            problem, code = self._end
        self.account(code, problem)
        if problem is not None:
            for line in str(problem).splitlines():
                print(line, file=sys.stderr, flush=True)
        return code

    def _listens(self, machine_0: subprocess.Popen[bytes], address: str, port: int) -> bool:
        """Wait until machine 0 can be reached where the workers will look for it; False where it, or the run, has ended."""
        end, why = time.monotonic() + LISTEN_SECONDS, "it has not come so far"
        while time.monotonic() < end:
            if machine_0.poll() is not None or self._stop.first is not None:
                return False
            # It writes this just before it listens; what answers earlier is somebody else's.
            if self._is_new(self._run.nodes_token):
                try:
                    socket.create_connection((address, port), 1.0).close()
                    return True
                except OSError as error:
                    why = error.strerror or str(error)
            time.sleep(POLL_SECONDS)
        self._give_up(
            Problem(
                f"machine 0 cannot be reached at {address}:{port}, not even from its own session: {why}",
                "launch.main_process_ip, launch.main_process_port",
                "set launch.main_process_ip to this session's address (hostname -i), or another port",
            ),
            ExitCode.ENVIRONMENT,
        )
        return False

    def _ask_for_workers(self, api: WorkersApi, address: str, port: int) -> None:
        run, plan, accelerator = self._run, self._plan, self._launch.cml.accelerator
        try:
            shape = worker_shape(self._launch, plan.processes_per_node if plan.device == "gpu" else 0)
            room = cml_room.look(shape, plan.nodes - 1, accelerator, "launch.cml.accelerator")
            for rank in range(1, plan.nodes):
                if self._stop.first is not None:
                    return
                id = api.launch(
                    code_of(run, self._script, rank, address, port),
                    shape,
                    name=f"{run.output_dir.name}, machine {rank}",
                    accelerator_id=room.accelerator_id,
                    environment=passed(),
                )
                self._workers.append(new_worker(run, rank, id, time.monotonic()))
                write_workers(run, self._workers)
                _say(f"{self._workers[-1].called} is asked for, with {shape.describe()}")
        except UserError as error:
            self._give_up(error.problems[0], error.exit_code)

    def _watched(self, machine_0: subprocess.Popen[bytes]) -> int:
        """Wait for machine 0's end, pass a stop on, and end it where a worker has failed it."""
        is_told = False
        while (code := machine_0.poll()) is None:
            if self._stop.at_once or (self._kill_at is not None and time.monotonic() > self._kill_at):
                _kill(machine_0)
            elif self._stop.first is not None:
                if not is_told:
                    machine_0.terminate()
                is_told = True
            else:
                self._look()
            time.sleep(POLL_SECONDS)
        return code

    def _look(self) -> None:
        """See how the workers are; the first that fails the run ends it."""
        self._refresh()
        now, has_met, limit = time.monotonic(), self._has_met(), self._launch.cml.schedule_seconds
        for worker in self._workers:
            if worker.over_since is not None and not (has_met and worker.code == 0):
                if now - worker.over_since > (LOST_SECONDS if has_met else OWN_WORD_SECONDS):
                    self._give_up(*self._lost(worker, has_met))
            elif not worker.has_begun and now - worker.asked > limit:
                self._give_up(_unscheduled(worker, limit), ExitCode.ENVIRONMENT)

    def _refresh(self) -> None:
        """Read the workers' own words, and now and then ask the platform."""
        before, statuses = [asdict(worker) for worker in self._workers], None
        if self._api is not None and time.monotonic() - self._asked > ASK_SECONDS:
            self._asked = time.monotonic()
            try:
                statuses, self._is_silent = self._api.statuses(), False
            except Exception as failure:  # the platform's own kinds; a run that goes on does not need it
                if not self._is_silent:
                    _say(
                        f"the platform does not say how the workers are: {type(failure).__name__}: {failure}"
                    )
                self._is_silent = True
        for worker in self._workers:
            worker.take(self._run, statuses, time.monotonic())
        if before != [asdict(worker) for worker in self._workers]:
            write_workers(self._run, self._workers)

    def _has_met(self) -> bool:
        """Whether all have come: machine 0 then writes what it launches."""
        return self._is_new(self._run.script)

    def _is_new(self, path: Path) -> bool:
        return _changed(path) != self._before[path]

    def _lost(self, worker: Worker, has_met: bool) -> tuple[Problem, int]:
        """Say how a worker has ended; the end of its log first."""
        log = node_log(self._run, worker.rank)
        said = read_tail(log, worker.log_start, TAIL_LINES)
        for line in said:
            print(f"  {worker.rank}| {line}", file=sys.stderr, flush=True)
        where = str(log) if said else "its page in the session"
        fix = (
            "its last words stand above" if said else "it has written nothing: does it see the run directory?"
        )
        what = f"{worker.called} {worker.end}" + ("" if has_met else " before it came to machine 0")
        code = worker.code if worker.code in OWN_CODES else None
        return Problem(what, where, fix), code or int(ExitCode.WORKER_LOST)

    def _give_up(self, problem: Problem, code: int) -> None:
        """Have machine 0 end: in order, which before the training is at once."""
        if self._end is not None or self._machine_0 is None:
            return
        self._end = (problem, int(code))
        grace = self._launch.stop_grace_seconds if self._has_met() else 0.0
        self._kill_at = time.monotonic() + grace + END_SECONDS
        self._machine_0.terminate()

    def account(self, code: int, problem: Problem | None) -> None:
        """Write how the run ended, where machine 0 could not or did not say so."""
        path = self._run.outcome_json
        said = read_object(path) or {}
        if said.get("exit_code") == code and self._is_new(path):
            return
        found = problem or Problem("it ended before the training began", "the log of the job says why")
        told = {"what": found.what, "where": found.where, "fix": found.fix}
        outcome = {
            "status": STATUSES.get(ExitCode(code), "failed") if code in set(ExitCode) else "failed",
            "exit_code": code,
            "step": said.get("step", 0),
            **{name: text for name, text in told.items() if text is not None},
            # What an earlier launch has left to do after its training is still left.
            **({"left": said["left"]} if "left" in said else {}),
        }
        write_whole(path, json.dumps(outcome) + "\n")

    def clean_up(self) -> None:
        """Leave nothing: machine 0 first, by which the workers that have met it end by themselves."""
        if self._machine_0 is not None and self._machine_0.poll() is None:
            _kill(self._machine_0)
            self._machine_0.wait()
        if self._api is None or not self._workers:
            return
        self._wait_for(lambda worker: worker.has_begun)
        left = [worker for worker in self._workers if not worker.is_over]
        try:
            self._api.stop([worker.id for worker in left])
        except Exception as failure:  # the platform's own kinds
            _say(f"the platform does not stop the workers: {type(failure).__name__}: {failure}")
        else:
            self._wait_for(lambda worker: True)
        for worker in self._workers:
            _say(f"{worker.called} {worker.end}")
            if not worker.is_over:
                _say(f"{worker.called} may still run: look at the session's page, and stop it there")

    def _wait_for(self, wanted: Callable[[Worker], bool]) -> None:
        end = time.monotonic() + LEAVE_SECONDS
        self._refresh()
        while any(wanted(worker) and not worker.is_over for worker in self._workers):
            if self._stop.at_once or time.monotonic() > end:
                break
            time.sleep(POLL_SECONDS)
            self._refresh()


def _unscheduled(worker: Worker, limit: float) -> Problem:
    return Problem(
        f"{worker.called} was not started within {limit:g} s: the platform calls it {worker.status}",
        "the Workers API",
        "the cluster has no room, or your quota none: ask for less with launch.nodes, launch.gpus_per_node and launch.cml,"
        " or wait longer with launch.cml.schedule_seconds",
    )


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _kill(machine_0: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(machine_0.pid, signal.SIGKILL)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
