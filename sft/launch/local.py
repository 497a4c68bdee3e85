"""Launch a run on this machine: write what will run, run it supervised, then merge and push."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import shutil
import sys
from dataclasses import dataclass

from sft.checkpoint import resume
from sft.checkpoint.find import complete
from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.data.advice import advice
from sft.data.cache import Entry
from sft.data.prepare import ENTRY
from sft.data.prepare import prepare as prepare_data
from sft.data.unprepared import unprepared_reason
from sft.deadline import Deadline
from sft.errors import ExitCode, UserError
from sft.events import EventLog
from sft.files import write_whole
from sft.launch import stages
from sft.launch.accelerate_file import launch_files
from sft.launch.account import clear
from sft.launch.caches import on_shared
from sft.launch.command import launch_command, process_environment, shell_command, transport_environment
from sft.launch.deadline import find_deadline
from sft.launch.extensions import refuse_stale_locks
from sft.launch.head import Head, meeting
from sft.launch.lock import RunLock
from sft.launch.restart import Progress, run_with_restarts
from sft.launch.resuming import continued
from sft.launch.sameness import node_facts, places, versions
from sft.launch.stop import StopNow, StopRequests
from sft.launch.submit import settings_text
from sft.launch.supervise import supervise
from sft.plan.plan import Plan
from sft.rundir import RunDirectory


@dataclass(frozen=True, slots=True)
class Prepared:
    """A launch whose files are written."""

    run: RunDirectory
    command: list[str]
    environment: dict[str, str]
    """What is set besides what the processes inherit."""

    @property
    def shell(self) -> str:
        """The launch as a line to paste."""
        return shell_command(self.command, self.environment)


def prepare(loaded: LoadedRun, plan: Plan, *, written_by: str) -> Prepared:
    """Write the resolved run file, the plan, the accelerate configuration and the script into the run directory.

    Raises:
        UserError: the directory cannot be written.
    """
    config = loaded.config
    run = config.run
    # One file for all machines: each of the others says which it is on its command line.
    files = launch_files(dataclasses.replace(plan, machine_rank=0), run, written_by)
    command = launch_command(config, run.accelerate_yaml, run.run_yaml)
    environment = process_environment(config, plan)
    prepared = Prepared(run, command, environment)
    texts = {
        run.run_yaml: _run_yaml(loaded, written_by),
        run.sources_json: json.dumps(loaded.sources, indent=2) + "\n",
        run.plan_json: plan.to_json(),
        run.environment_json: json.dumps(_environment(), indent=2) + "\n",
        run.accelerate_yaml: files.accelerate_yaml,
        run.script: f"#!/usr/bin/env bash\n# {written_by}\nset -euo pipefail\ncd {shlex.quote(os.getcwd())}\n"
        f"exec env {prepared.shell}\n",
    }
    if files.deepspeed_json is not None:
        texts[run.deepspeed_json] = files.deepspeed_json
    try:
        for path, text in texts.items():
            write_whole(path, text)
        run.script.chmod(0o755)
    except OSError as error:
        raise UserError(
            f"the run directory cannot be written: {error.strerror}",
            where=str(error.filename or run.output_dir),
            fix="set output_dir to a place that is yours and has room",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    return prepared


def launch(
    loaded: LoadedRun,
    plan: Plan,
    *,
    written_by: str,
    fresh: bool = False,
    allow_changed: bool = False,
    max_restarts: int = 0,
) -> int:
    """Run a launch to its end and return its exit code. It continues what is there.

    Args:
        fresh: start from the beginning; checkpoints that are there are moved aside.
        allow_changed: continue although the run file trains otherwise than before.
        max_restarts: how often to start again after a lost worker.
    """
    config = loaded.config
    run = config.run
    run.kit.parent.mkdir(parents=True, exist_ok=True)
    with RunLock(run), StopRequests(config.launch.stop_signals) as stop, meeting(plan, run) as head:
        deadline = find_deadline(config.launch.time_limit, say=_say)
        left = [] if fresh or not _is_same(loaded) else stages.left_over(run)
        if left:
            _say(f"the training has ended: what is left: {', '.join(left)}")
            code = int(ExitCode.DONE)
        else:
            try:
                with stop.interrupting():
                    if head is not None:
                        head.gather(node_facts(), config.launch.limits.meet)
                    prepared = prepare(loaded, plan, written_by=written_by)
                    environment = {**os.environ, **prepared.environment}
                    for problem in on_shared(environment):
                        _say(f"warning: {problem}")
                    if plan.distributed_type == "DEEPSPEED":
                        refuse_stale_locks(environment)
                    handed = _made_ready(loaded, plan, fresh=fresh, allow_changed=allow_changed)
                    handed |= transport_environment(config, plan)
                    if head is not None:
                        checkpoint = handed[resume.VARIABLE]
                        head.compare(places(config, entry=handed.get(ENTRY), checkpoint=checkpoint))
            except StopNow:
                return stages.stopped(run, stop, "stopped before the training began: nothing is lost", [])
            print(f"$ {prepared.shell}", file=sys.stderr)
            print(f"logs: {run.logs}", file=sys.stderr)
            code = _supervised(
                loaded,
                plan,
                prepared,
                handed,
                stop,
                deadline,
                head,
                allow_changed=allow_changed,
                restarts=max_restarts,
            )
        if code == ExitCode.DONE:
            code = stages.follow(config, left or stages.wanted(config), stop)
            if code != ExitCode.STOPPED:
                print(run.output_dir)
        if head is not None:
            head.over(code)
    return code


def _supervised(
    loaded: LoadedRun,
    plan: Plan,
    prepared: Prepared,
    handed: dict[str, str],
    stop: StopRequests,
    deadline: Deadline | None,
    head: Head | None,
    *,
    allow_changed: bool,
    restarts: int,
) -> int:
    """Train, again where a worker was lost and a restart is left, and return the exit code."""
    config, run = loaded.config, prepared.run

    def start(number: int) -> int:
        if number:
            with stop.interrupting():
                newest = continued(_newest(config), plan, handed.get(ENTRY), allow_changed=allow_changed)
            handed[resume.VARIABLE] = newest
        if head is not None:
            clear(run, range(plan.processes), nodes=1)
            head.go(handed)
        return supervise(
            prepared.command,
            run,
            {**os.environ, **prepared.environment, **handed},
            ranks=plan.processes_per_node,
            stop_grace_seconds=config.launch.stop_grace_seconds,
            limits=config.launch.limits,
            stop=stop,
            deadline=deadline,
            nodes=plan.nodes,
            peers=head,
            settle=head.settle if head is not None else lambda verdict: verdict,
        )

    def note(text: str) -> None:
        _say(text)
        EventLog(run.events_jsonl).write("note", text=text)

    return run_with_restarts(
        start, run, stop, max_restarts=restarts, progress=Progress(run), say=note, deadline=deadline
    )


def _made_ready(loaded: LoadedRun, plan: Plan, *, fresh: bool, allow_changed: bool) -> dict[str, str]:
    """Prepare the data and choose where to continue; return what the ranks are told of it."""
    config = loaded.config
    entry = None if unprepared_reason(config) else prepare_data(loaded)
    handed = {ENTRY: str(entry.directory)} if entry else {}
    if fresh:
        resume.start_afresh(config.run, _say)
    handed[resume.VARIABLE] = continued(config, plan, handed.get(ENTRY), allow_changed=allow_changed)
    if entry is not None:
        _keep_ledger(loaded, entry, config.run)
    return handed


def _is_same(loaded: LoadedRun) -> bool:
    """Whether the run directory holds this very run file."""
    path = loaded.config.run.run_yaml
    return path.exists() and path.read_text(encoding="utf-8").partition("\n")[2] == settings_text(
        loaded.config
    )


def _newest(config: RunConfig) -> RunConfig:
    """Leave out the checkpoint that the run file names, once the run has one of its own to be restarted from."""
    if not complete(config.run):
        return config
    training = config.training.model_copy(update={"resume_from_checkpoint": None})
    return config.model_copy(update={"training": training})


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _keep_ledger(loaded: LoadedRun, entry: Entry, run: RunDirectory) -> None:
    """Say what became of the rows, and keep it with the run."""
    for line in [*entry.lines(), *(f"warning: {problem}" for problem in advice(loaded, entry))]:
        print(line, file=sys.stderr)
    run.data.mkdir(parents=True, exist_ok=True)
    for name in ("dropped.jsonl", "truncated.jsonl"):
        shutil.copyfile(entry.directory / name, run.data / name)
    (run.data / "summary.json").write_text(
        json.dumps({"entry": str(entry.directory), "splits": entry.manifest["splits"]}, indent=2) + "\n"
    )


def _run_yaml(loaded: LoadedRun, written_by: str) -> str:
    return f"# The resolved run file of: {written_by}\n{settings_text(loaded.config)}"


def _environment() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": versions(),
    }
