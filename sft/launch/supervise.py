"""The parent of `accelerate launch`: what runs, is seen, can be stopped, and leaves nothing behind.

It has no part in the training and loads no torch. The ranks tell it how they are through the files of the run
directory (`_sft/ranks`, `events.jsonl`, `outcome.json`), and it tells them to stop through `_sft/stop`.
How the run ended is decided in `sft.launch.verdict`.
"""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TextIO

from sft.config.limits import LimitsConfig
from sft.deadline import Deadline
from sft.events import EventFollower
from sft.launch.account import clear, end_of_events, write_end
from sft.launch.peers import Peers
from sft.launch.process import (
    adopt_orphans,
    descendants,
    end_processes,
    held_back,
    start_bound,
)
from sft.launch.said import RankState, has_trained, read_from, read_object, read_states
from sft.launch.screen import Screen, report
from sft.launch.stacks import ask_for_stacks
from sft.launch.stop import StopRequests, write_stop_file
from sft.launch.verdict import Ending, Verdict, cannot_start, judge
from sft.launch.watch import Hang, Watch
from sft.parent import SUPERVISOR_VARIABLE, supervisor_tag
from sft.rundir import RunDirectory

POLL_SECONDS = 0.15
# The slower looks, at files of which there is one a rank.
LOOK_SECONDS = 1.0
# How long a rank that has said its last word may take to leave.
LEAVING_SECONDS = 60.0
# How long before the deadline those are ended that did not leave by themselves.
ENDING_SECONDS = 5.0
# How long the ranks here may take to notice that another node's have ended.
PEER_SECONDS = 20.0
# Another node's ranks are looked at less often: their files come over the network.
OTHERS_SECONDS = 15.0
# torchrun asks the ranks beside a failed one to end, and says whom; or says that it was told to end itself.
CLOSING = re.compile(r"Sending process (\d+) closing signal")
TOLD_TO_END = re.compile(r"Received (?:Signals\.)?(\w+) death signal")


def supervise(
    command: Sequence[str],
    run: RunDirectory,
    environment: dict[str, str],
    *,
    ranks: int,
    stop_grace_seconds: float = 300.0,
    kill_grace_seconds: float = 5.0,
    limits: LimitsConfig | None = None,
    first_rank: int = 0,
    stop: StopRequests | None = None,
    deadline: Deadline | None = None,
    nodes: int = 1,
    peers: Peers | None = None,
    settle: Callable[[Verdict], Verdict] = lambda verdict: verdict,
    stream: TextIO | None = None,
) -> int:
    """Run a launcher to its end, and return the run's exit code. Call it from the main thread.

    The first Ctrl-C (or another of `stop`'s signals) asks the ranks to stop in order, the second Ctrl-C ends them
    at once; before they train, the first does. A run that was stopped either way ends with 75, unless it failed
    of its own. A run in which a rank goes without progress for longer than the limit of its phase is ended with 6,
    once every rank has written where it stands.

    Args:
        command: starts all `ranks` ranks; they die with their parent (`sft.parent.die_with_parent`).
        environment: the whole environment of the command, to which the supervisor's own variables are added.
        stop_grace_seconds: how long the ranks may take to stop in order.
        kill_grace_seconds: how long a process may take to end after SIGTERM, before SIGKILL.
        limits: how long each phase may go without progress.
        first_rank: the first of the ranks that this supervisor starts.
        stop: who notes the signals, where the caller has one already.
        deadline: the ranks leave before it by themselves; what is still there then is ended.
        nodes: how many supervisors there are, each with `ranks` ranks. The first of them keeps the account.
        peers: the others.
        settle: takes what was judged of the ranks here, and returns the end of the run.
        stream: where people read; stderr by default.
    """
    own = range(first_rank, first_rank + ranks)
    clear(run, own, nodes=nodes)
    marks = {path: path.stat().st_size for path in run.logs.glob("*.log")}
    events = EventFollower(run.events_jsonl, end_of_events(run.events_jsonl) if first_rank == 0 else 0)
    screen = Screen(stream or sys.stderr)
    environment = {
        # torchrun would kill ranks that are still saving after 30 s, when a scheduler signals it as well. Later than
        # the supervisor does, who says why.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(stop_grace_seconds) + 30),
        **environment,
        # To have left when the others are ended.
        **(Deadline(deadline.due - ENDING_SECONDS, deadline.source).environment if deadline else {}),
        "SFT_SUPERVISED": "1",
        "SFT_RUN_DIR": str(run.output_dir.absolute()),
        SUPERVISOR_VARIABLE: supervisor_tag(),
    }
    with ExitStack() as stack:
        stop = stop or stack.enter_context(StopRequests())
        stack.enter_context(adopt_orphans())
        earlier = frozenset(process.pid for process in descendants())
        log = stack.enter_context(run.launcher_log.open("ab"))
        try:
            launcher = start_bound(command, environment, log, held=stop.signals)
        except OSError as error:
            verdict, reason = cannot_start(command, error), None
        else:
            supervision = _Supervision(
                launcher=launcher,
                run=run,
                events=events,
                screen=screen,
                stop=stop,
                deadline=deadline,
                nodes=nodes,
                peers=peers,
                own=own,
                watch=Watch(run, limits or LimitsConfig(), own),
                environment=environment,
                ranks=ranks,
                stop_grace_seconds=stop_grace_seconds,
                kill_grace_seconds=kill_grace_seconds,
                earlier=earlier,
                log_start=marks.get(run.launcher_log, 0),
            )
            try:
                verdict = settle(judge(supervision.wait(), run))
                reason = supervision.reason
                if supervision.hang is not None and verdict.problem is None:
                    screen.say(f"{supervision.hang.line}\nthe run had ended before: nothing of it is lost")
            finally:
                if stuck := supervision.end_all():
                    screen.say(f"these processes cannot be ended, and still hold what they hold: {stuck}")
        for event in events.poll() if first_rank == 0 else ():
            screen.show(event)
        try:
            if first_rank == 0:
                write_end(run, verdict, screen, reason)
        except OSError as error:
            screen.say(f"the outcome cannot be written: {error}")
        screen.close()
        report(verdict, read_states(run, own), run, marks, screen)
    return verdict.exit_code


@dataclass(kw_only=True)
class _Supervision:
    """One launcher and everything below it, from its start to the last process.

    Attributes:
        earlier: children of this process that were there before, which are none of the run's.
        log_start: where this launch begins in the launcher's log.
        stopping: how the stop goes, as `Ending.stop`.
        due: when each process that is to leave is killed, by pid.
    """

    launcher: subprocess.Popen[bytes]
    run: RunDirectory
    events: EventFollower
    screen: Screen
    stop: StopRequests
    deadline: Deadline | None
    nodes: int
    peers: Peers | None
    own: range
    watch: Watch
    environment: dict[str, str]
    ranks: int
    stop_grace_seconds: float
    kill_grace_seconds: float
    earlier: frozenset[int]
    log_start: int
    stopping: str | None = None
    stop_by: float = math.inf
    look_at: float = 0.0
    done_since: float | None = None
    hang: Hang | None = None
    others: dict[int, RankState] = field(default_factory=dict)
    others_at: float = 0.0
    peer: str | None = None
    peer_until: float = math.inf
    due: dict[int, float] = field(default_factory=dict)
    killed_here: set[int] = field(default_factory=set)

    def wait(self) -> Ending:
        """Wait until the launcher has ended, or is to be ended; return what there was to see then."""
        while (code := self.launcher.poll()) is None:
            self._show()
            if self._is_over():
                break
            if time.monotonic() >= self.look_at:
                self._look()
                self.look_at = time.monotonic() + LOOK_SECONDS
            time.sleep(POLL_SECONDS)
        # Before anything is ended from here: what the ranks say after that is a consequence.
        return Ending(
            ranks=self.ranks,
            launcher_pid=self.launcher.pid,
            launcher_code=code,
            states=self._own_states(),
            # The first node's ranks write it; what is seen of it elsewhere may be an earlier launch's.
            outcome=read_object(self.run.outcome_json) if 0 in self.own else None,
            first_rank=self.own.start,
            peer=self.peer,
            stop=self.stopping or ("asked" if self.reason else None),
            killed_here=frozenset(self.killed_here),
            launcher_said=self._launcher_said(),
            hang=self.hang,
        )

    @property
    def reason(self) -> str | None:
        """Who or what asked for the stop, here or at the launcher below."""
        if self.stop.first is not None:
            return self.stop.first.name
        if self.stopping is not None and self.deadline is not None:
            return self.deadline.source
        told = TOLD_TO_END.search(self._launcher_said())
        if told is None:
            return None
        return signal.Signals(int(told[1])).name if told[1].isdecimal() else told[1]

    def end_all(self) -> list[int]:
        """End everything below this process; return the pids of what cannot be ended."""
        is_cut = self.launcher.poll() is None
        if is_cut:
            # Not SIGTERM: torchrun would pass it on to ranks that take it as a wish to stop in order.
            self.launcher.kill()
            self.launcher.wait()
        return end_processes(
            lambda: descendants(self.earlier),
            grace_seconds=0.0 if is_cut else self.kill_grace_seconds,
            hurry=lambda: self.stop.at_once,
        )

    def _launcher_said(self) -> str:
        return read_from(self.run.launcher_log, self.log_start)

    def _show(self) -> None:
        if 0 in self.own:
            for event in self.events.poll():
                self.screen.show(event)
        self.screen.tick()

    def _own_states(self) -> dict[int, RankState]:
        """Read what the ranks of this node say; a pid of another node's may be a stranger's here."""
        return read_states(self.run, self.own)

    def _is_over(self) -> bool:
        """Ask for the stop that was wished for; say whether to wait no longer."""
        if self.deadline is not None and self.deadline.seconds_left < ENDING_SECONDS:
            self.stopping = "out of time"
            return True
        if self.hang is not None or time.monotonic() > self.peer_until:
            return True
        if self.stop.first is None:
            return self.done_since is not None and time.monotonic() > self.done_since + LEAVING_SECONDS
        if self.stopping is None:
            self.stopping = "asked"
            by = "" if self.stop.first is signal.SIGINT else f"{self.stop.first.name} received: "
            states = self._own_states()
            # The ranks of other nodes would take these for lost, and may train already.
            if not states or (self.nodes == 1 and not has_trained(states)):
                return True
            write_stop_file(self.run, self.stop.first.name)
            self.stop_by = time.monotonic() + self.stop_grace_seconds
            self.screen.say(
                f"{by}stopping in order: the run saves a checkpoint first; Ctrl-C again stops at once"
            )
        if self.stop.at_once:
            self.stopping = "at once"
        elif time.monotonic() > self.stop_by:
            self.stopping = "out of time"
        return self.stopping != "asked"

    def _look(self) -> None:
        """End ranks that a failure has left hanging; note when everyone has said their last word."""
        now = time.monotonic()
        if (number := held_back(self.launcher.pid, self.stop.signals)) is not None:
            self.stop.hear(number)
        said = self._launcher_said()
        if not TOLD_TO_END.search(said):
            for pid in CLOSING.findall(said):
                self.due.setdefault(int(pid), now + self.kill_grace_seconds)
        states = self._own_states()
        if self.peer is None and self.peers is not None and (why := self.peers.failure()):
            self.peer, self.peer_until = why, now + PEER_SECONDS
        for state in states.values():
            if state.status == "failed" and state.pid is not None:
                self.due.setdefault(state.pid, now + LEAVING_SECONDS / 2)
        if late := {pid for pid, until in self.due.items() if now > until} - self.killed_here:
            self.killed_here |= late
            # Only what is found below this process: a rank's pid may be another host's.
            others = self.earlier | {self.launcher.pid}
            end_processes(
                lambda: [process for process in descendants(others) if process.pid in late], grace_seconds=0.0
            )
        # A stop has a limit of its own.
        if self.nodes > 1 and now > self.others_at:
            self.others, self.others_at = read_states(self.run), now + OTHERS_SECONDS
        if self.stop.first is None and (hang := self.watch.look({**self.others, **states})) is not None:
            below = descendants(self.earlier)
            self.hang = ask_for_stacks(hang, self.run, states, below, self.environment)
        is_done = len(states) == self.ranks and all(state.status == "done" for state in states.values())
        self.done_since = (self.done_since or now) if is_done else None
