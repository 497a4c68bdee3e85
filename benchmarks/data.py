"""Measure the preparation of data, and what packing gives: `sft` beside TRL and beside the bare tokenizer.

    python benchmarks/data.py --tokenizer DIR --data alpaca.json --megabytes 100
    python benchmarks/data.py --tokenizer DIR --data alpaca.json --training [--model DIR]

DIR holds a tokenizer.json and a chat template with generation markers, such as the `base` directory of a quickstart
(SmolLM2). The data are alpaca rows or chats, repeated up to the size that is asked for; every repetition has its
number at the end of the question, so that no two rows are equal. Both sides read the same file of chats, and use the
same template, mask (assistant_only_loss) and packing (bfd).

Every measurement is a process of its own, with empty caches. The sides take turns, so that what else the machine
does falls on all of them; ratios are taken within a round. Memory is the largest sum, over the process and all its
children, of resident pages, shared ones divided among those that share them. Prints Markdown to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

SIDE = Path(__file__).with_name("data_side.py")
BIN = Path(sys.executable).parent


def chats(path: Path) -> list[list[dict[str, str]]]:
    """Read alpaca rows, or chats, from a JSON or JSONL file."""
    text = path.read_text(encoding="utf-8")
    rows = (
        json.loads(text)
        if text.lstrip().startswith("[")
        else [json.loads(line) for line in text.splitlines()]
    )
    found = []
    for row in rows:
        if "messages" in row:
            found.append(row["messages"])
            continue
        question = "\n".join(filter(None, (row["instruction"], row.get("input"))))
        found.append([{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}])
    return found


def repeated(rows: list[list[dict[str, str]]], size_bytes: int) -> Iterator[str]:
    """Yield lines of JSON up to a size, each repetition with its number after the first question."""
    written, turn = 0, 0
    while written < size_bytes:
        for row in rows:
            messages = [dict(message) for message in row]
            first = next(message for message in messages if message["role"] == "user")
            if turn:
                first["content"] += f" ({turn})"
            line = json.dumps({"messages": messages}) + "\n"
            written += len(line)
            yield line
            if written >= size_bytes:
                return
        turn += 1


class Peak(threading.Thread):
    """Watch the memory of a process and its children until they are gone."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.largest_bytes = psutil.Process(pid), 0

    def run(self) -> None:
        while True:
            try:
                members = [self.process, *self.process.children(recursive=True)]
                total = sum(map(self._resident, members))
            except psutil.NoSuchProcess:
                return
            if not total:
                return
            self.largest_bytes = max(self.largest_bytes, total)
            time.sleep(0.1)

    @staticmethod
    def _resident(member: psutil.Process) -> int:
        try:
            lines = Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def measure(side: str, settings: dict[str, Any], *, keep: Path | None = None) -> dict[str, Any]:
    """Run one side with caches of its own, and return what it says and its `peak_bytes`."""
    with tempfile.TemporaryDirectory(prefix="sft-side-") as scratch:
        place = Path(scratch) / "settings.json"
        place.write_text(json.dumps({**settings, "scratch": str(keep or scratch)}))
        environment = {**os.environ, "HF_DATASETS_CACHE": f"{scratch}/datasets", "HF_HUB_OFFLINE": "1"}
        if side == "padded":
            environment["OMP_NUM_THREADS"] = str(settings["threads"])
        environment["TOKENIZERS_PARALLELISM"] = "false" if side in ("trl", "padded") else "true"
        child = subprocess.Popen(
            [sys.executable, str(SIDE), side, str(place)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        peak = Peak(child.pid)
        peak.start()
        out, error = child.communicate()
        peak.join(timeout=5)
        if child.returncode or not out.strip():
            raise SystemExit(f"{side} failed:\n{error[-3000:]}")
        found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return {**found, "peak_bytes": peak.largest_bytes}


def spread(values: list[float], digits: int = 2) -> str:
    """Say a median and the range around it."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def preparation(settings: dict[str, Any], rounds: int, processes: list[int]) -> None:
    """Print tokens a second, ratios and memory of the three sides, and where their rows differ."""
    measure("render", settings)
    sides: dict[str, tuple[str, dict[str, Any]]] = {
        "tokenizers alone": ("limit", {}),
        "sft": ("ours", {}),
        **{f"SFTTrainer, dataset_num_proc {n}": ("trl", {"processes": n}) for n in processes},
    }
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name, (side, more) in sides.items():
            found = measure(side, {**settings, **more})
            taken[name].append(found)
            print(
                f"round {turn + 1}: {name}: {found['seconds']:.1f} s, {found['tokens']:,} tokens",
                file=sys.stderr,
            )
    tokens = taken["tokenizers alone"][0]["tokens"]
    speed = {name: [tokens / each["seconds"] for each in runs] for name, runs in taken.items()}
    print(
        f"\n{tokens:,} tokens, max_length {settings['max_length']}, {rounds} rounds, {os.cpu_count()} cores.\n"
    )
    print("| | thousand tokens a second, median (range) | packed rows | peak memory |\n|---|---:|---:|---:|")
    for name, runs in taken.items():
        rows = f"{runs[0]['rows']:,}" if "rows" in runs[0] else ""
        most = max(run["peak_bytes"] for run in runs) / 2**30
        print(f"| {name} | {spread([each / 1e3 for each in speed[name]], 0)} | {rows} | {most:.2f} GiB |")
    theirs = [name for name in sides if sides[name][0] == "trl"]
    best = max(theirs, key=lambda name: statistics.median(speed[name]))
    print("\n| ratio, within a round | median (range) | goal |\n|---|---:|---:|")
    for name, against, goal in (("sft", best, "3"), ("sft", "tokenizers alone", "0.75")):
        ratios = [a / b for a, b in zip(speed[name], speed[against], strict=True)]
        print(f"| {name} / {against} | {spread(ratios)} | {goal} |")


def compare(settings: dict[str, Any]) -> None:
    """Print how many rows differ from TRL's in tokens or in what carries loss."""
    found = measure("rows", settings)
    print(
        f"\nRow by row, not packed: {found['rows'][0]:,} rows of sft, {found['rows'][1]:,} of TRL;"
        f" {found['tokens']:,} differ in tokens, {found['labels']:,} in labels;"
        f" tokens that carry loss: {found['trained'][0]:,} and {found['trained'][1]:,}."
    )
    for example in found["examples"]:
        print(f"- {example}")


def packed(settings: dict[str, Any]) -> float:
    """Return trained tokens a second of `sft launch` with packing, from its own events."""
    from sft.events import read_events
    from sft.rundir import RunDirectory

    with tempfile.TemporaryDirectory(prefix="sft-packed-") as scratch:
        words = {
            "model_name_or_path": settings["trained_model"],
            "dataset_name": settings["chats"],
            "assistant_only_loss": "true",
            "packing": "true",
            "max_length": settings["max_length"],
            "total_train_batch_size": settings["packed_rows"],
            "max_steps": settings["steps"],
            "seed": settings["seed"],
            "use_cpu": "true",
            "bf16": "false",
            "num_cpu_threads_per_process": settings["threads"],
            "logging_steps": 1,
            "save_strategy": "no",
            "output_dir": f"{scratch}/out",
            "data_cache": f"{scratch}/cache",
            "max_cut_answers": 1,
        }
        run_file = Path(scratch) / "run.yaml"
        run_file.write_text(
            "".join(
                f"{key}: {value!r}\n" if key == "save_strategy" else f"{key}: {value}\n"
                for key, value in words.items()
            )
        )
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [str(BIN / "sft"), "launch", str(run_file)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        events = read_events(RunDirectory(Path(scratch) / "out").events_jsonl)
        marks = [(e["time"], e["trained_tokens"]) for e in events if e["event"] == "log" and "loss" in e]
        if done.returncode or len(marks) < 2:
            raise SystemExit(f"sft launch failed:\n{done.stderr[-3000:]}")
        return rate(marks)


def rate(marks: list[Any]) -> float:
    """Return tokens a second between the first step's end and the last's: what starts up is not in it."""
    return float((marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0]))


def training(settings: dict[str, Any], rounds: int, model: Path | None) -> None:
    """Print trained tokens a second, packed beside padded."""
    with tempfile.TemporaryDirectory(prefix="sft-model-") as place:
        named = f"the model of {model.name}" if model else ""
        settings = {**settings, "trained_model": str(model.absolute() if model else place)}
        if model is None:
            count = measure("tiny", settings)["parameters"]
            named = f"a Llama of {count / 1e6:.1f} million parameters with random weights"
        ours, theirs = [], []
        for turn in range(rounds):
            more = {**settings, "seed": turn}
            theirs.append(rate(measure("padded", more)["marks"]))
            ours.append(packed(more))
            print(f"round {turn + 1}: packed {ours[-1]:.0f}, padded {theirs[-1]:.0f}", file=sys.stderr)
    print(
        f"\nTraining {named}, float32, sdpa, {settings['steps']} steps, {rounds} rounds, {settings['threads']} threads.\n"
    )
    print("| | tokens with loss a second, median (range) |\n|---|---:|")
    print(f"| `sft launch`, packed, rows of {settings['max_length']} | {spread(ours, 0)} |")
    print(f"| SFTTrainer's default, 8 padded rows a batch | {spread(theirs, 0)} |")
    print(f"| ratio, within a round | {spread([a / b for a, b in zip(ours, theirs, strict=True)])} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="tokenizer and template")
    parser.add_argument("--data", type=Path, required=True, help="JSON or JSONL: alpaca rows or chats")
    parser.add_argument("--megabytes", type=float, default=100, help="of chats as JSON lines [100]")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens of a packed row [2048]")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side [3]; 0 only compares rows")
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, 2, 4], help="dataset_num_proc [1 2 4]"
    )
    parser.add_argument(
        "--compare-megabytes", type=float, default=5, help="compared row by row; 0 for none [5]"
    )
    parser.add_argument("--training", action="store_true", help="measure training, not preparation")
    parser.add_argument("--model", type=Path, help="trained instead of a small Llama with random weights")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of a training [12]")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a training [one a core]")
    parser.add_argument("--packed-rows", type=int, default=4, help="packed rows an optimizer step [4]")
    arguments = parser.parse_args()
    rows = chats(arguments.data)
    with tempfile.TemporaryDirectory(prefix="sft-data-") as name:
        place = Path(name)
        settings = {
            "model": str(arguments.tokenizer.absolute()),
            "chats": str(place / "chats.jsonl"),
            "texts": str(place / "texts.jsonl"),
            "max_length": arguments.max_length,
            "steps": arguments.steps,
            "packed_rows": arguments.packed_rows,
            "threads": arguments.threads,
        }
        with open(settings["chats"], "w") as file:
            file.writelines(repeated(rows, int(arguments.megabytes * 1e6)))
        if arguments.training:
            training(settings, arguments.rounds, arguments.model)
            return
        if arguments.rounds:
            preparation(settings, arguments.rounds, arguments.processes)
        if arguments.compare_megabytes:
            sample = str(shutil.copy(settings["chats"], place / "sample.jsonl"))
            with open(sample, "r+") as file:
                lines = file.readlines(int(arguments.compare_megabytes * 1e6))
                file.seek(0)
                file.writelines(lines)
                file.truncate()
            compare({**settings, "chats": sample})


if __name__ == "__main__":
    main()
