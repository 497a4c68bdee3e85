"""What a job's script asks of the kit while it runs. The scripts of `sft launch --on slurm` and launch/slurm.sh, and that of
`--on cml`, use it.

sft job begin RUN                 note the start; print the port that the nodes meet at, or `finished`
sft job end RUN --status CODE     say how the run ended, send the job back into the queue where that is right,
                                  and exit with the run's own code
sft job cml RUN                   hold a run on Cloudera's workers: start machine 0 and them, and see them to their end
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("begin", "end", "cml"))
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="the output_dir of the run")
    parser.add_argument("--status", type=int, default=0, metavar="CODE", help="what srun ended with")
    parser.add_argument("--script", type=Path, metavar="FILE", help="for cml: what each machine runs")
    parser.add_argument("--address", default="", help="for cml: of this machine, as the workers reach it")
    parser.add_argument("--port", type=int, default=0, help="for cml: that the machines meet at [any]")
    parser.add_argument("--requeue", action="store_true", help="the job may go back into the queue")


def run(arguments: argparse.Namespace, extra: list[str]) -> int:
    from sft.errors import UserError
    from sft.launch.queue import differs, free_port, newest_step, note
    from sft.launch.said import read_object
    from sft.rundir import RunDirectory

    run = RunDirectory(arguments.run_dir.absolute())
    if arguments.what == "cml":
        from sft.launch.cml_job import hold

        return hold(run, arguments.script or run.kit / "job.sh", arguments.address, arguments.port)
    job = os.environ.get("SLURM_JOB_ID", "0")
    if arguments.what == "end":
        return _end(run, job, arguments.status, can_requeue=arguments.requeue)
    run.logs.mkdir(parents=True, exist_ok=True)
    outcome = read_object(run.outcome_json) or {}
    if outcome.get("status") == "finished" and not outcome.get("left"):
        _say(f"the run is done already, at step {outcome.get('step')}: {run.output_dir}")
        print("finished")
        return 0
    run.exit_code.unlink(missing_ok=True)
    if problem := differs(run, os.environ):
        raise UserError.of([problem])
    step = newest_step(run)
    restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    note(run, "begun", job=job, step=step, nodes=nodes, restart=restart)
    again = f", start {restart + 1}" if restart else ""
    _say(
        f"job {job}{again} on {nodes or 'this machine'}: "
        + (f"from step {step}" if step else "from the start")
    )
    print(free_port(job))
    return 0


def _end(run: object, job: str, status: int, *, can_requeue: bool) -> int:
    from sft.launch.on import slurm
    from sft.launch.queue import decide, newest_step, note, outcome_of, read_book
    from sft.rundir import RunDirectory

    assert isinstance(run, RunDirectory)
    starts = read_book(run).starts
    outcome = outcome_of(run, starts[-1] if starts else None)
    # srun ends with the highest code of all nodes; the first node's is the run's.
    if run.exit_code.exists() and (text := run.exit_code.read_text(encoding="utf-8").strip()).isdecimal():
        status = int(text)
    step = newest_step(run)
    note(run, "ended", job=job, step=step, code=int(outcome["exit_code"]) if outcome else status)
    book = read_book(run)
    decision = decide(outcome, status, book, can_requeue=can_requeue, is_cancelled=_is_cancelled(job))
    _say(f"job {job} ended at step {step} with {decision.code}: {decision.why}")
    if decision.requeue:
        refused = slurm.requeue(job)
        if refused is None:
            time.sleep(30.0)  # Slurm ends this script; its own end first would be the job's
        else:
            _say(f"Slurm does not take it back: {refused}; submit it again, or chain jobs: --chain N")
    elif decision.code not in (0, 75):
        for later in book.chain[book.chain.index(job) + 1 :] if job in book.chain else []:
            slurm.cancel(later)
            _say(f"job {later}, which was to follow, is cancelled")
    return decision.code


def _is_cancelled(job: str) -> bool:
    from sft.errors import UserError
    from sft.launch.on import slurm

    try:
        return slurm.state_of(job).state == "CANCELLED"
    except UserError:
        return False


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", file=sys.stderr, flush=True)
