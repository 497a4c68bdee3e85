"""What each way of docs/topics.md costs and saves, side by side: speed, memory of a rank, bytes of a checkpoint.

    python benchmarks/topics.py --rounds 3 --write docs/topics.md
    python benchmarks/topics.py --computed --write docs/topics.md     # only what `sft plan` computes, in seconds

Each way is a real `sft launch` of one small Llama with random weights, on the CPU. The ways take turns, `--rounds` times; a
ratio is taken within a round. In the first two steps every tensor is counted (tests/plan/live_bytes.py), the third warms up,
and the rest are timed by the run's own events. What needs a GPU is computed by `sft plan` for a model of 8 billion parameters,
and called so. What it does not do: GPUs, several machines, how well a model learns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.topics_cases import (  # noqa: E402 - the benchmarks are no installed package
    CASES,
    COMPUTED,
    GPU,
    LARGE,
    LENGTH,
    NAMES,
    PLANNED,
    ROWS,
    Case,
    settings_of,
    write_data,
    write_model,
)

TIMED_FROM, LONGEST_SECONDS = 3, 900.0
"""The step from whose end time is taken: two are counted, one warms up. How long one launch may take."""
BLOCK = re.compile(r"<!-- (measured|computed): (.+?) -->\n.*?<!-- end -->", re.DOTALL)
TABLE = "table"
"""The name of a marker under which all of a kind stands."""


def measure(case: Case, place: Path, timed_steps: int) -> dict[str, float]:
    """Launch a case once, and return what it took.

    Raises:
        RuntimeError: it failed, or took too long; the message says what it wrote last.
    """
    from tests.training.launching import FSDP_ON_CPU, launch

    steps = TIMED_FROM + timed_steps
    live, output = place / "live", place / "out"
    for left in (live, output):
        shutil.rmtree(left, ignore_errors=True)
    live.mkdir()
    environment = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "SFT_BENCHMARK_LIVE": str(live),
        **({"PYTHONPATH": str(FSDP_ON_CPU)} if case.strategy == "fsdp2" else {}),
    }
    try:
        done = launch(output, settings_of(case, place, steps), environment=environment, limit=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{case.name} had not ended after {LONGEST_SECONDS:.0f} s") from None
    marks = [(event["time"], event["trained_tokens"]) for event in done.of_kind("log") if "loss" in event]
    counted = [json.loads(file.read_text()) for file in live.glob("*.json")]
    folder = output / f"checkpoint-{steps}"
    if done.code or len(marks) != steps or len(counted) != case.processes or not folder.is_dir():
        raise RuntimeError(
            f"{case.name} was not measured: exit {done.code}, {len(marks)} steps\n{done.stderr[-3000:]}"
        )
    seconds, tokens = (marks[-1][index] - marks[TIMED_FROM - 1][index] for index in (0, 1))
    return {
        "seconds": seconds / timed_steps,
        "tokens": tokens / seconds,
        "tensors": max(counted),
        "process": json.loads(done.run.measured_json.read_text())["process_bytes"],
        "checkpoint": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def by_turns(arguments: argparse.Namespace, place: Path) -> tuple[dict[str, list[dict[str, float]]], int]:
    """Measure the chosen cases in turn, round after round; return what each took, and the model's parameters."""
    # Libraries greet on stdout, which is for the tables.
    with contextlib.redirect_stdout(sys.stderr):
        parameters = write_model(place / "model", arguments.layers)
    write_data(place)
    chosen = [case for case in CASES if case.name in with_bases(arguments.only or NAMES)]
    asked = {"layers": arguments.layers, "steps": arguments.steps}
    file = arguments.keep or place / "kept.json"
    kept = json.loads(file.read_text()) if file.exists() else {**asked, "found": {}}
    if {key: kept[key] for key in asked} != asked:
        raise RuntimeError(f"{file} holds runs of other --layers or --steps; remove it, or name another")
    found: dict[str, list[dict[str, float]]] = kept["found"]
    for turn in range(arguments.rounds):
        for case in chosen:
            taken = found.setdefault(case.name, [])
            if len(taken) > turn:
                continue
            taken.append(measure_or_again(case, place, arguments.steps))
            file.write_text(json.dumps(kept))
            told = ", ".join(f"{key} {value:,.2f}" for key, value in taken[-1].items())
            print(f"round {turn + 1}: {case.name}: {told}", file=sys.stderr, flush=True)
    return {case.name: found[case.name][: arguments.rounds] for case in chosen}, parameters


def measure_or_again(case: Case, place: Path, timed_steps: int) -> dict[str, float]:
    """Measure a case; one launch that fails is not to cost what all the others took."""
    try:
        return measure(case, place, timed_steps)
    except RuntimeError as failure:
        print(f"{failure}\n{case.name} once more:", file=sys.stderr, flush=True)
        return measure(case, place, timed_steps)


def with_bases(names: Sequence[str]) -> set[str]:
    """Add to cases those that they are set beside, and those again."""
    bases = {case.name: case.base for case in CASES}
    wanted = set(names)
    while not wanted >= (more := {bases[name] for name in wanted}):
        wanted |= more
    return wanted


def ratios(found: Mapping[str, list[dict[str, float]]], case: Case, key: str) -> list[float]:
    """Return a case's figure as a multiple of its base's, in each round."""
    return [mine[key] / base[key] for mine, base in zip(found[case.name], found[case.base], strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Say the median, and the range where there is one."""
    middle, low, high = (
        f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def measured_lines(found: Mapping[str, list[dict[str, float]]]) -> dict[str, list[str]]:
    """Write each case's row of the table, and the line that stands under its topic."""
    rows, topics = [], {}
    for case in (case for case in CASES if case.name in found):
        speed, tensors, saved = (ratios(found, case, key) for key in ("tokens", "tensors", "checkpoint"))
        cells = [spread([one["seconds"] for one in found[case.name]])]
        cells += [f"{statistics.median(one['tokens'] for one in found[case.name]):,.0f}", spread(speed)]
        cells += [_mib(found, case, "tensors"), spread(tensors), _mib(found, case, "process")]
        cells += [_mib(found, case, "checkpoint")]
        processes = f"{case.name} x 2" if case.processes > 1 else case.name
        rows.append(f"| {processes} | {case.base} | " + " | ".join(cells) + " |")
        if case.base != case.name:
            topics[case.name] = [
                f"- `{case.name}` beside `{case.base}`: {spread(speed)} times the tokens a second, {spread(tensors)} times"
                f" the tensors' bytes on a rank, {spread(saved)} times the checkpoint's bytes."
            ]
    head = "| run | beside | seconds a step | tokens a second | times the base's | tensors, MiB | times the base's"
    return {
        TABLE: [f"{head} | process, MiB | checkpoint, MiB |", "|---|---|" + "---:|" * 7, *rows],
        **topics,
    }


def _mib(found: Mapping[str, list[dict[str, float]]], case: Case, key: str) -> str:
    return f"{statistics.median(one[key] for one in found[case.name]) / 2**20:,.1f}"


def setting(parameters: int, arguments: argparse.Namespace) -> str:
    """Say what was measured, with which versions, on what."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "deepspeed"))
    return (
        f"A Llama of {parameters / 1e6:.1f} million parameters with random weights, float32, {ROWS} rows of {LENGTH} tokens"
        f" a step over all\nprocesses. Rounds: {arguments.rounds}; timed steps of each: {arguments.steps}; {os.cpu_count()}"
        f" CPU cores, which two processes share.\n{libraries}."
    )


def computed_lines() -> dict[str, list[str]]:
    """Ask `sft plan` about every way for the model of 8 billion parameters, and write its row and its line."""
    from sft.check.planned import plan_run
    from sft.config.loader import load_run
    from sft.units import gib

    rows, topics = [], {}
    with tempfile.TemporaryDirectory(prefix="sft-topics-") as name:
        place = Path(name)
        (place / "config.json").write_text(json.dumps(LARGE))
        for case, (settings, gpus) in COMPUTED.items():
            launch = {"strategy": "single", "gpus_per_node": gpus, **settings.get("launch", {})}
            named = {"model_name_or_path": name, "dataset_name": f"{name}/none", "output_dir": f"{name}/out"}
            words = {**PLANNED, **named}
            (place / "run.yaml").write_text(json.dumps({**words, **settings, "launch": launch}))
            option = plan_run(load_run(place / "run.yaml", environment={}), GPU, {}).option
            bill, time = option.estimate.device, option.time
            assert time is not None, f"the table of GPUs has the speed of {GPU}"
            fits, speed = "fits" if bill.fits else "does not fit", time.tokens / time.seconds / gpus
            length = settings.get("max_length", PLANNED["max_length"])
            rows.append(
                f"| {case} | {gpus} | {length:,} | {gib(bill.likely)} | {gib(bill.at_most)} | {fits} | {speed:,.0f} |"
            )
            where = "one GPU" if gpus == 1 else f"each of {gpus} GPUs"
            topics[case] = [
                f"- `{case}` on {where}, rows of {length:,} tokens: likely {gib(bill.likely)}, at most {gib(bill.at_most)}:"
                f" {fits}."
            ]
    head = (
        "| run | GPUs | tokens a row | likely | at most | 80 GB | tokens a second and GPU, by the roofline |"
    )
    return {TABLE: [head, "|---|---:|---:|---:|---:|---|---:|", *rows], **topics}


def rewrite(text: str, kind: str, lines: Mapping[str, Sequence[str]]) -> str:
    """Put a kind's lines between its markers, and leave the rest of a page as it is."""

    def block(found: re.Match[str]) -> str:
        if found[1] != kind:
            return found[0]
        body = "".join(f"{line}\n" for name in found[2].split(", ") for line in lines[name])
        return f"<!-- {kind}: {found[2]} -->\n{body}<!-- end -->"

    return BLOCK.sub(block, text)


def wrong_markers(text: str) -> list[str]:
    """Say what of a page's markers could not be filled: to be known before hours of measuring, not after."""
    known = {
        "measured": {TABLE, *(case.name for case in CASES if case.base != case.name)},
        "computed": {TABLE, *COMPUTED},
    }
    found = [(kind, name) for kind, names in BLOCK.findall(text) for name in names.split(", ")]
    wrong = [f"it has no `<!-- {kind}: {TABLE} -->`" for kind in known if (kind, TABLE) not in found]
    return wrong + [f"{name} is not {kind}" for kind, name in found if name not in known[kind]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of every case [3]")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a launch [5]")
    parser.add_argument("--layers", type=int, default=8, help="of the model; fewer to try the script [8]")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="CASE", help=f"{', '.join(NAMES)} [all]")
    parser.add_argument("--keep", type=Path, help="keep what was measured here, measure only what is missing")
    parser.add_argument("--computed", action="store_true", help="measure nothing, only ask `sft plan`")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the figures between its markers")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.steps, arguments.layers) < 1:
        parser.error("--rounds, --steps and --layers are at least 1")
    if arguments.keep and not arguments.keep.absolute().parent.is_dir():
        parser.error(f"there is no directory {arguments.keep.parent}")
    if arguments.write:
        if arguments.only:
            parser.error("--write takes all cases, or figures of two runs would stand side by side")
        if not arguments.write.is_file():
            parser.error(f"there is no page {arguments.write}")
        if wrong := wrong_markers(arguments.write.read_text("utf-8")):
            parser.error(f"{arguments.write}: {'; '.join(wrong)}")
    # The kit then divides the cores by the processes of each run; and no group's defaults are measured.
    for name in ("OMP_NUM_THREADS", "SFT_SITE"):
        os.environ.pop(name, None)
    kinds: dict[str, Callable[[], Mapping[str, Sequence[str]]]] = {"computed": computed_lines}
    if not arguments.computed:
        kinds = {"measured": lambda: measured(arguments), **kinds}
    for kind, make in kinds.items():
        lines = make()
        print("\n".join(lines[TABLE]), flush=True)
        if arguments.write:
            text = arguments.write.read_text("utf-8")
            arguments.write.write_text(rewrite(text, kind, lines), "utf-8")


def measured(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Measure, and write the lines; the table says first what it is of."""
    with tempfile.TemporaryDirectory(prefix="sft-topics-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        try:
            found, parameters = by_turns(arguments, Path(name))
        except RuntimeError as failure:
            raise SystemExit(str(failure)) from None
    lines = measured_lines(found)
    return {**lines, TABLE: [setting(parameters, arguments), "", *lines[TABLE]]}


if __name__ == "__main__":
    main()
