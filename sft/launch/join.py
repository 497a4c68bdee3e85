"""The launch of a machine that is not the first: it joins machine 0's, and ends with the run's own exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Sequence

from sft.config.loader import LoadedRun
from sft.errors import ExitCode, Problem, UserError
from sft.launch.caches import on_shared
from sft.launch.command import launch_command, process_environment
from sft.launch.deadline import find_deadline
from sft.launch.extensions import refuse_stale_locks
from sft.launch.link import Message
from sft.launch.member import Member
from sft.launch.peers import told
from sft.launch.sameness import differences, node_facts
from sft.launch.stop import StopNow, StopRequests
from sft.launch.supervise import supervise
from sft.launch.verdict import Verdict
from sft.plan.arrangement import DEFAULT_PORT
from sft.plan.plan import Plan

PARTING_SECONDS = 30.0
"""How long machine 0 may take to say how the run ended, once this node was asked to stop."""


def join(loaded: LoadedRun, plan: Plan) -> int:
    """Run this machine's ranks, as often as machine 0 says, and return the run's exit code."""
    launch = loaded.config.launch
    member = _member(loaded)
    with StopRequests(launch.stop_signals) as stop:
        deadline = find_deadline(launch.time_limit, say=_say)
        try:
            with stop.interrupting():
                member.join(node_facts(), launch.limits.meet)
                _say(f"machine {plan.machine_rank} has come to machine 0 at {member.head}")
        except StopNow:
            return int(ExitCode.STOPPED)
        while True:
            try:
                with stop.interrupting():
                    message = member.next()
                    if message["say"] == "compare":
                        member.say({"say": "compared", "problems": differences(message["hashes"])})
                        continue
            except StopNow:
                member.say(told(Verdict("stopped", ExitCode.STOPPED)))
                message = member.last(PARTING_SECONDS)
            if message["say"] == "over":
                return _over(message)

            def settle(verdict: Verdict) -> Verdict:
                member.say(told(verdict))
                return verdict

            run = dataclasses.replace(loaded.config.run, machine_rank=plan.machine_rank)
            environment = {**os.environ, **process_environment(loaded.config, plan), **message["environment"]}
            for problem in on_shared(environment):
                _say(f"warning: {problem}")
            refuse_stale_locks(environment)
            supervise(
                launch_command(loaded.config, run.accelerate_yaml, run.run_yaml, plan.machine_rank),
                run,
                environment,
                ranks=plan.processes_per_node,
                first_rank=plan.machine_rank * plan.processes_per_node,
                stop_grace_seconds=launch.stop_grace_seconds,
                limits=launch.limits,
                stop=stop,
                deadline=deadline,
                nodes=plan.nodes,
                peers=member,
                settle=settle,
            )
            if stop.first is not None:
                return _over(member.last(PARTING_SECONDS))


def refuse(loaded: LoadedRun, problems: Sequence[Problem]) -> None:
    """Tell machine 0 that this node cannot run it, so that nobody waits for it."""
    with contextlib.suppress(UserError):  # that of this node is the one to tell
        _member(loaded).join(node_facts(), loaded.config.launch.limits.meet, list(problems))


def _member(loaded: LoadedRun) -> Member:
    launch = loaded.config.launch
    address, port = launch.main_process_ip, launch.main_process_port or DEFAULT_PORT
    if not address:
        raise UserError(
            "this machine has to know where machine 0 is",
            loaded.where("launch.machine_rank"),
            "set launch.main_process_ip to its address",
        )
    return Member(loaded.config.run, launch.machine_rank, address, port)


def _over(message: Message) -> int:
    if message.get("why"):
        _say(f"the run has ended: {message['why']}")
    return int(message["exit_code"])


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
