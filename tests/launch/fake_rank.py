"""A rank that keeps the contract of the ranks with the supervisor, and trains nothing. Run as a script.

python fake_rank.py [RANK:]BEHAVIOUR...        the last one that fits this rank counts
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

from sft.events import EventLog
from sft.parent import die_with_parent
from sft.rundir import RunDirectory

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
RUN = RunDirectory(Path(os.environ["SFT_RUN_DIR"]))
EVENTS = EventLog(RUN.events_jsonl)


def say(**fields: object) -> None:
    """Write this rank's state, whole or not at all."""
    base = {"rank": RANK, "pid": os.getpid(), "host": socket.gethostname(), "phase": "train"}
    partial = RUN.ranks / f".rank-{RANK}.partial"
    partial.write_text(json.dumps(base | fields))
    partial.replace(RUN.rank_state(RANK))


def hang(**state: object) -> None:
    """Say where this rank is, and go no further."""
    say(status="running", since=time.monotonic(), **state)
    while True:
        time.sleep(1)


def wait_for_a_build() -> None:
    """Wait as torch does for another process to build an extension; its file alone, without torch."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    spec = importlib.util.spec_from_file_location(
        "file_baton", Path(torch.origin).parent / "utils/file_baton.py"
    )
    assert spec is not None
    assert spec.loader is not None
    baton = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(baton)
    baton.FileBaton(os.environ["TORCH_EXTENSIONS_DIR"] + "/cpu_adam/lock").wait()


def agree(status: str, exit_code: int, step: int, **more: str) -> None:
    """Write the outcome, as rank 0."""
    if RANK == 0:
        if status != "failed":
            EVENTS.write("end", status=status, exit_code=exit_code, step=step)
        fields = {"status": status, "exit_code": exit_code, "step": step, **more}
        RUN.outcome_json.write_text(json.dumps(fields))


def work(asked: list[int], last: int | None, save_seconds: float) -> str:
    """Train until the last step, or until asked to stop."""
    step = 0
    while last is None or step < last:
        step += 1
        if RANK == 0:
            EVENTS.write("log", step=step, max_steps=last or 1000, loss=2.0 / step, learning_rate=2e-4)
        time.sleep(0.05)
        if asked or RUN.stop_file.exists():
            time.sleep(save_seconds)
            agree("stopped", 75, step)
            return "stopped"
    agree("finished", 0, step)
    return "finished"


def is_alive(pid: str) -> bool:
    """Whether a process has not ended: a zombie has no command line, and one that was waited for no directory."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def data_worker() -> None:
    """Do nothing, and end when told to: what is held back from a rank that begins is not held back from here."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    time.sleep(600)


def main(behaviour: str) -> None:
    """Do as told."""
    die_with_parent()
    if behaviour == "no state":
        time.sleep(600)
    asked: list[int] = []
    log = os.open(RUN.rank_log(RANK), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    print(f"rank {RANK} begins", flush=True)
    worker = multiprocessing.get_context("fork").Process(target=data_worker, daemon=True)
    worker.start()
    # After the fork: a data worker that inherited it would not end when it is told to.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: asked.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGUSR1])
    RUN.stacks.mkdir(exist_ok=True)
    faulthandler.register(signal.SIGUSR2, file=RUN.rank_stacks(RANK).open("a"), all_threads=True)
    (RUN.kit / f"pids-{RANK}").write_text(f"{os.getpid()} {worker.pid} {os.getppid()}")
    say(status="running")
    if RANK == 0:
        EVENTS.write("start", run_id="x", world_size=WORLD, step=0)
        EVENTS.write("phase", phase="train")
    match behaviour:
        case "finish":
            work(asked, 3, 0.0)
        case "train":
            work(asked, None, 0.2)
        case "save slowly":
            work(asked, None, 2.0)
        case "save for 35 seconds":
            work(asked, None, 35.0)
        case "hang":
            while True:
                time.sleep(1)
        case "load for long":
            hang(phase="load")
        case "hang in step 11":
            hang(step=10)
        case "hang in save":
            hang(phase="save", step=10)
        case "stop itself":
            say(status="running", step=10)
            os.kill(os.getpid(), signal.SIGSTOP)
        case "wait for a build":
            say(status="running", phase="load")
            wait_for_a_build()
        case "go slowly":
            for step in range(8):
                say(status="running", step=step)
                time.sleep(0.4)
            agree("finished", 0, 8)
        case "end and hang":
            agree("finished", 0, 3)
            hang(phase="leave")
        case "user problem":
            time.sleep(0.3)
            say(status="failed", exit_code=3, time=time.time(), what="out of memory", where="step 1", fix="a smaller batch")  # fmt: skip
            sys.exit(1)
        case "raise":
            time.sleep(0.3)
            print("10%\r20%\r30%\nTraceback ...\nRuntimeError: boom", flush=True)
            say(status="failed", exit_code=1, time=time.time(), what="RuntimeError: boom")
            sys.exit(1)
        case "be killed":
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        case "lose its peer":
            pids = RUN.kit / "pids-1"
            # The file may be there and not yet written.
            while not pids.exists() or not (said := pids.read_text().split()):
                time.sleep(0.01)
            while is_alive(said[0]):
                time.sleep(0.01)
            say(
                status="failed", exit_code=1, time=time.time(), what="RuntimeError: Connection closed by peer"
            )
            sys.exit(1)
        case "agree to fail":
            agree("failed", 5, 2, what="the loss is NaN", where="step 2", fix="a lower learning rate")
        case "exit without a word":
            os._exit(3)
        case "leave without an outcome":
            pass
        case "leave an orphan":
            if os.fork() == 0:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                (RUN.kit / "orphan").write_text(str(os.getpid()))
                time.sleep(600)
            work(asked, 3, 0.0)
        case "hang at its exit":
            agree("finished", 0, 3)
            say(status="done")
            time.sleep(600)
    say(status="done")


if __name__ == "__main__":
    told = [word.rpartition(":") for word in sys.argv[1:]]
    main([what for rank, _, what in told if rank in ("", str(RANK))][-1])
