"""Measure the seconds from a command to its first optimizer step: `sft launch` beside plain `accelerate launch`.

    python benchmarks/startup.py                          # a tiny model, on the CPU
    python benchmarks/startup.py --model DIR --data FILE --rounds 3

Both read the same run file, so model, data and settings are equal; the other side is TRL's own scripts/sft.py. They
take turns (A B A B ...), after one turn each that does not count, so that what else the machine does falls on both.
The first step is when its loss is logged: the time of our `log` event, the arrival of TRL's line. Prints
Markdown tables to stdout. What it does not do: GPUs, several machines, a cold disk.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
FIRST_LOSS = "'loss'"
"""In the line that transformers prints of a logged step."""

TITLES = {"first_step": "first step", "end": "end of the run", "processor": "processor time of the run"}


@dataclass(frozen=True)
class Start:
    """Seconds from the command to the first step and to its end; and of processor time, over all processes."""

    first_step: float
    end: float
    processor: float


def processor_seconds() -> float:
    """Return the processor time of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(run_file: Path, output_dir: Path, processes: int) -> Start:
    """Time one `sft launch`."""
    from sft.events import read_events
    from sft.rundir import RunDirectory

    words = [str(BIN / "sft"), "launch", str(run_file), "--output_dir", str(output_dir)]
    words += ["--processes_per_node", str(processes), "--strategy", "ddp" if processes > 1 else "single"]
    begin, before = time.time(), processor_seconds()
    done = subprocess.run(
        words, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False
    )
    end = time.time()
    logged = [
        event for event in read_events(RunDirectory(output_dir).events_jsonl) if event["event"] == "log"
    ]
    if done.returncode or not logged:
        raise SystemExit(f"sft launch failed:\n{done.stderr}")
    return Start(logged[0]["time"] - begin, end - begin, processor_seconds() - before)


def theirs(run_file: Path, output_dir: Path, processes: int) -> Start:
    """Time one `accelerate launch` of TRL's script."""
    package = find_spec("trl")
    assert package is not None
    assert package.origin is not None
    script = Path(package.origin).parent / "scripts" / "sft.py"
    accelerate_file = run_file.with_name(f"accelerate-{processes}.yaml")
    accelerate_file.write_text(
        f"distributed_type: {'MULTI_GPU' if processes > 1 else 'NO'}\nuse_cpu: true\nnum_machines: 1\n"
        f"num_processes: {processes}\nmixed_precision: 'no'\nmain_process_port: 0\n"
    )
    words = [str(BIN / "accelerate"), "launch", "--config_file", str(accelerate_file), str(script)]
    words += ["--config", str(run_file), "--output_dir", str(output_dir)]
    begin, before, first = time.time(), processor_seconds(), None
    child = subprocess.Popen(
        words,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if first is None and FIRST_LOSS in line:
            first = time.time()
    if child.wait() or first is None:
        raise SystemExit(f"TRL's script failed:\n{''.join(lines[-40:])}")
    return Start(first - begin, time.time() - begin, processor_seconds() - before)


def in_turns(run_file: Path, place: Path, processes: int, rounds: int) -> dict[str, list[Start]]:
    """Time both sides alternately; the first turn of each only warms the disk's cache."""
    sides = {"sft launch": ours, "accelerate launch": theirs}
    taken: dict[str, list[Start]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, start in sides.items():
            found = start(run_file, place / f"{name.split()[0]}-{processes}-{turn}", processes)
            counted = "" if turn else " (warming up)"
            print(
                f"{processes} x {name}: "
                f"{found.first_step:.1f} s to the first step, {found.end:.1f} s to the end{counted}",
                file=sys.stderr,
            )
            if turn:
                taken[name].append(found)
    return taken


def command_times(run_file: Path, times: int = 9) -> dict[str, tuple[float, float]]:
    """Return the median seconds, and processor seconds, of the commands that need no torch."""
    commands = {
        "sft --help": ["--help"],
        "sft launch --help": ["launch", "--help"],
        "sft check RUN.yaml": ["check", str(run_file)],
        "sft configure --strategy ddp --device cpu --processes-per-node 2 --output -": [
            *("configure", "--strategy", "ddp", "--device", "cpu"),
            *("--processes-per-node", "2", "--output", "-"),
        ],
    }
    medians = {}
    for name, words in commands.items():
        taken = []
        for _ in range(times):
            begin, before = time.perf_counter(), processor_seconds()
            subprocess.run([str(BIN / "sft"), *words], capture_output=True, check=True)
            taken.append((time.perf_counter() - begin, processor_seconds() - before))
        waited, used = zip(*taken, strict=True)
        medians[name] = statistics.median(waited), statistics.median(used)
    return medians


def write_run_file(place: Path, model: Path | None, data: Path | None) -> Path:
    """Write the run file that both sides read; without a model, of the tests' tiny one."""
    sys.path.insert(0, str(REPOSITORY))
    from tests import tiny

    if model is None:
        # Libraries greet on stdout, which is for the tables.
        with contextlib.redirect_stdout(sys.stderr):
            model = tiny.write_tiny_model(place / "model")
    data = data or tiny.write_chats(place / "chats.jsonl", 200)
    # TRL's script takes a directory of files, not a file.
    folder = place / "data"
    folder.mkdir()
    (folder / f"train{data.suffix}").symlink_to(data.absolute())
    run_file = place / "run.yaml"
    run_file.write_text(
        f"model_name_or_path: {model.absolute()}\ndataset_name: {folder}\nassistant_only_loss: true\n"
        "use_cpu: true\nbf16: false\nmax_length: 128\nper_device_train_batch_size: 2\nmax_steps: 1\n"
        "logging_steps: 1\nsave_strategy: 'no'\nreport_to: none\n"
    )
    return run_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model's directory [the tiny Llama of the tests]")
    parser.add_argument("--data", type=Path, help="a .jsonl file of chats [200 short ones]")
    parser.add_argument("--rounds", type=int, default=5, help="turns that count [5]")
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, 2], help="how many, each in turn [1 2]"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sft-startup-") as name:
        run_file = write_run_file(Path(name), arguments.model, arguments.data)
        print("| command | seconds | processor seconds |\n|---|---:|---:|")
        for command, (seconds, used) in command_times(run_file).items():
            print(f"| `{command}` | {seconds:.3f} | {used:.3f} |")
        if not arguments.processes:
            return
        print("\n| processes | | `sft launch` | `accelerate launch` + TRL | ratio, median of turns (range) |")
        print("|---|---|---:|---:|---:|")
        for processes in arguments.processes:
            taken = in_turns(run_file, Path(name), processes, arguments.rounds)
            for field, title in TITLES.items():
                mine, plain = ([getattr(start, field) for start in starts] for starts in taken.values())
                ratios = [a / b for a, b in zip(mine, plain, strict=True)]
                print(
                    f"| {processes} | {title} | {statistics.median(mine):.1f} s | {statistics.median(plain):.1f} s "
                    f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
