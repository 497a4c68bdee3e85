"""Run every check on a run file, and sort what they say.

Checks of this machine run one after another; those that wait for a network or a scheduler run beside them, and have
`SECONDS_TO_ANSWER` in all: a server that is down must not hold up a launch.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from sft.check.answers import held_from_memory
from sft.check.cluster import host_bytes_of
from sft.check.finding import GRAVITIES, Finding, errors, note
from sft.check.place import UNKNOWN, KnownModel, known_model
from sft.check.subject import Subject
from sft.config.loader import LoadedRun, load_run
from sft.errors import ExitCode, Problem, UserError
from sft.plan.decide import Option, decide
from sft.plan.gpus import GpuModel, gpu_named, gpu_seen
from sft.plan.hardware import Hardware, asked_for, detect
from sft.plan.plan import Plan, make_plan

SECONDS_TO_ANSWER = 8.0
"""How long the checks that wait for others may take, all together."""

Needs = Literal["nothing", "a plan", "this machine", "the network", "the scheduler"]


class Check(Protocol):
    """One module in `sft/check/checks/`.

    Attributes:
        NAME: a few words, as they stand in front of what it finds.
        COST: what it reads or asks.
        NEEDS: "a plan" is skipped where none could be made; "this machine" where the run goes elsewhere; "the network"
            with --offline and where HF_HUB_OFFLINE is set; "the scheduler" where the run goes to none.

    A check that waits for others may have `make_ready(subject)`, which imports what it needs before the threads start.
    """

    NAME: str
    COST: str
    NEEDS: Needs

    def look(self, subject: Subject) -> Iterator[Finding]:
        """Say what is wrong, doubtful or worth knowing. A UserError counts as errors."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was looked at, and what was found: the gravest first."""

    subject: Subject
    findings: tuple[Finding, ...]

    def of(self, gravity: str) -> list[Finding]:
        """Return what has one gravity."""
        return [finding for finding in self.findings if finding.gravity == gravity]

    def require_no_errors(self) -> Plan:
        """Return the plan.

        Raises:
            UserError: something refuses the run.
        """
        found = self.of("error")
        if found or self.subject.plan is None:
            raise UserError.of([finding.problem for finding in found], exit_code=found[0].exit_code)
        return self.subject.plan


def survey(
    path: Path | None,
    words: Sequence[str] = (),
    hardware: Hardware | None = None,
    *,
    checks: Iterable[Check],
    in_batch: bool = False,
    on: str = "here",
    offline: bool = False,
) -> Survey:
    """Read a run file, plan it, and look at it with every check.

    Args:
        in_batch: it runs in a batch job, on machines that are as it asks for them.
        offline: prove that it needs no network, and ask none.

    Raises:
        UserError: the run file cannot be read; then nothing else can be judged.
    """
    loaded = load_run(path, words)
    environment = {**os.environ, **loaded.config.kit.env}
    made = _planned(loaded, environment, hardware, in_batch, path)
    subject = Subject(
        loaded=loaded,
        plan=made.plan,
        hardware=made.hardware,
        environment=environment,
        in_batch=in_batch,
        on=on,
        path=path,
        words=tuple(words),
        offline=offline,
        gpu=made.gpu,
        model=made.model,
        option=made.option,
    )
    return look(subject, checks, made.findings)


def look(subject: Subject, checks: Iterable[Check], findings: Sequence[Finding] = ()) -> Survey:
    """Look at a run with some checks."""
    wanted = [check for check in checks if _applies(check, subject)]
    waiting = _Waiting([check for check in wanted if _waits(check)], subject)
    found = [*findings]
    for check in wanted:
        found += waiting.finish(check) if _waits(check) else _ask(check, subject)
    placed = [replace(finding, problem=_placed(finding.problem, subject.loaded)) for finding in found]
    once: dict[tuple[str, Problem], Finding] = {}
    for finding in placed:  # a broken file may stop several checks
        once.setdefault((finding.gravity, finding.problem), finding)
    return Survey(subject, tuple(sorted(once.values(), key=lambda finding: GRAVITIES.index(finding.gravity))))


@dataclass(slots=True)
class _Planned:
    """A plan, and what it was made of."""

    hardware: Hardware
    plan: Plan | None = None
    gpu: GpuModel | None = None
    model: KnownModel = UNKNOWN
    option: Option | None = None
    findings: list[Finding] = field(default_factory=list)


def _planned(
    loaded: LoadedRun,
    environment: Mapping[str, str],
    hardware: Hardware | None,
    in_batch: bool,
    path: Path | None,
) -> _Planned:
    """Plan a run; of one that cannot be planned, much else can still be looked at."""
    made = _Planned(hardware or Hardware((), (), 1, 0))
    try:
        made.hardware = seen = _asked_for(loaded, path) if in_batch else hardware or detect()
        plan = make_plan(loaded, seen, is_placed=not in_batch)
        made.gpu = _gpu(loaded, seen, plan)
        made.model = known_model(loaded.config, environment)
        made.plan, made.option, _ = decide(
            loaded,
            plan,
            made.model.shape,
            made.gpu,
            host_bytes_of(seen, loaded.config),
            held_from_memory(loaded.config),
        )
    except UserError as refusal:
        found = errors(refusal.problems, refusal.exit_code)
        made.plan = None
    else:
        found = [note(line) for line in (*loaded.notes, *made.plan.notes)]
        if made.model.from_hub is not None:
            found.append(note(f"shapes of {made.model.from_hub.called} as the Hub told them before"))
    made.findings = [replace(finding, check="plan") for finding in found]
    return made


def _gpu(loaded: LoadedRun, seen: Hardware, plan: Plan) -> GpuModel | None:
    """Return the smallest GPU of a machine, or what the run file says of one that nobody has seen; None on the CPU."""
    if plan.device == "cpu" or not seen.gpus:
        return None
    if not min(seen.gpu_memory_bytes):
        named = loaded.config.launch.gpu
        return None if named is None else gpu_named(named, loaded.where("launch.gpu"))
    smallest = min(range(seen.gpus), key=lambda index: seen.gpu_memory_bytes[index])
    return gpu_seen(seen.gpu_names[smallest], seen.gpu_memory_bytes[smallest])


def _applies(check: Check, subject: Subject) -> bool:
    if check.NEEDS == "a plan":
        return subject.plan is not None
    if check.NEEDS == "this machine":
        return not subject.in_batch
    if check.NEEDS == "the network":
        return not subject.offline and subject.environment.get("HF_HUB_OFFLINE", "0") in ("", "0")
    if check.NEEDS == "the scheduler":
        return subject.on == "slurm"
    return True


def _waits(check: Check) -> bool:
    return check.NEEDS in ("the network", "the scheduler")


def _ask(check: Check, subject: Subject) -> list[Finding]:
    try:
        found = list(check.look(subject))
    except UserError as refusal:
        found = errors(refusal.problems, refusal.exit_code)
    except OSError as failure:
        if any(Path(str(failure.filename)).is_relative_to(place) for place in subject.unreachable):
            return []  # told with the plan
        found = errors([_unreadable(failure)], ExitCode.ENVIRONMENT)
    return [replace(finding, check=check.NAME) for finding in found]


def _unreadable(failure: OSError) -> Problem:
    """Tell a place that cannot be looked at as what it is: a name that is too long, a file server that is gone."""
    return Problem(
        f"it cannot be looked at: {failure.strerror or failure}",
        str(failure.filename or ""),
        "name another place, or make it readable",
    )


def _nothing(subject: Subject) -> None:
    """Make nothing ready: for checks without `make_ready`."""


class _Waiting:
    """Checks that run beside the others. Their threads are daemons: one that hangs does not keep the command."""

    def __init__(self, checks: Sequence[Check], subject: Subject) -> None:
        self._found: dict[str, list[Finding] | BaseException] = {}
        for check in checks:
            # Imports of the HTTP client parse code, which CPython 3.11 cannot do in two threads at a time:
            # "AST constructor recursion depth mismatch". So they are done here, by checks that have something to ask.
            getattr(check, "make_ready", _nothing)(subject)
        self._threads = {
            check.NAME: threading.Thread(target=self._run, args=(check, subject), daemon=True)
            for check in checks
        }
        for thread in self._threads.values():
            thread.start()
        self._until = time.monotonic() + SECONDS_TO_ANSWER

    def _run(self, check: Check, subject: Subject) -> None:
        try:
            self._found[check.NAME] = _ask(check, subject)
        except BaseException as failure:
            self._found[check.NAME] = failure

    def finish(self, check: Check) -> list[Finding]:
        """Wait for one check, as long as there is time."""
        self._threads[check.NAME].join(max(0.0, self._until - time.monotonic()))
        found = self._found.get(check.NAME)
        if found is None:
            told = f"{check.NAME}: {check.COST} did not answer within {SECONDS_TO_ANSWER:.0f} s, so it was not checked"
            return [replace(note(told), check=check.NAME)]
        if isinstance(found, BaseException):
            raise found
        return found


def _asked_for(loaded: LoadedRun, path: Path | None) -> Hardware:
    """Return the machines that the run file asks for: the login node's own say nothing."""
    launch = loaded.config.launch
    cores = launch.slurm.cpus_per_task or 1
    if loaded.config.training.use_cpu or launch.device == "cpu":
        return asked_for(0, cores)
    gpus = launch.gpus_per_node or (launch.num_processes or 0) // launch.nodes
    if not gpus:
        raise UserError(
            "a batch job has to say what it needs, and the run file names no GPUs",
            str(path or "the command line"),
            "set launch.gpus_per_node: 4; or launch.device: cpu with launch.processes_per_node",
        )
    return asked_for(gpus, cores)


def _placed(problem: Problem, loaded: LoadedRun) -> Problem:
    """Say where a key was set, where a rule could only name it."""
    key = problem.where or ""
    return Problem(problem.what, loaded.sources.get(key, problem.where), problem.fix)
