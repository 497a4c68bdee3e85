"""`sft eval` from a run to its results: what is measured, on which samples, and where that is kept. Imports no torch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sft.config.loader import load_run
from sft.errors import ExitCode, UserError
from sft.export.gather import Scored, evaluate, means
from sft.export.job import SIDES, Job
from sft.export.metrics import load_metrics
from sft.export.samples import held_out, read_samples, source_rows
from sft.export.subject import Subject, find_subject
from sft.files import write_whole

EVAL_JSON = "eval.json"
"""The results of a run's last evaluation, in its `_sft` directory."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line says; None is what the run file says, or the default."""

    tasks: Sequence[str] | None = None
    split: str = "test"
    limit: int | None = None
    processes: int = 1
    batch_size: int = 1
    max_new_tokens: int | None = None
    device: str = "auto"
    adapter: str | None = None
    base: str | None = None
    predictions: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """The results, in the form of eval.json.

    Attributes:
        step: at which the tuned weights were saved, as far as that is known.
        adapter: where it lies; None where the whole model was trained.
    """

    split: str
    samples: int
    step: int | None
    seconds: float
    adapter: str | None
    base: dict[str, float] = field(default_factory=dict)
    tuned: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write it for programs."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def lines(self) -> list[str]:
        """Draw it as a table."""
        rows = [("metric", "base", "tuned", "change")]
        for name, base in self.base.items():
            tuned = self.tuned[name]
            rows.append((name, f"{base:.4f}", f"{tuned:.4f}", f"{tuned - base:+.4f}"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return [
            "  " + f"{name:<{widths[0]}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
            for name, *cells in rows
        ]  # fmt: skip


def score(source: str, asked: Asked, say: Say) -> Scorecard:
    """Evaluate a run, base against tuned, and keep the results in its directory.

    Raises:
        UserError: there is no such run, no rows are held out, a metric is not there or fails, or the adapter and the
            base do not belong together.
    """
    started = time.monotonic()
    subject = _subject(source, asked)
    run = subject.run
    if run is None:
        raise UserError(
            f"{source} belongs to no run, which would say what it is evaluated on",
            "_sft/run.yaml is neither in that directory nor above it",
            "name a run, its run file or one of its checkpoints: sft eval RUN --adapter DIR evaluates another adapter",
        )
    for note in subject.notes:
        say(note)
    loaded = load_run(run.run_yaml)
    names = tuple(loaded.config.kit.eval_metrics if asked.tasks is None else asked.tasks)
    metrics = load_metrics(names, "eval_metrics" if asked.tasks is None else "--tasks")
    loaded, entry = held_out(loaded, asked.split, say)
    samples = read_samples(entry, asked.split, asked.limit)
    if not samples:
        raise UserError(
            f"no sample of the {asked.split} split is left after preparing it",
            str(entry.directory / "dropped.jsonl"),
            "mend the rows that are listed there",
        )
    if metrics and any(sample.origin is None for sample in samples):
        raise UserError(
            "answers cannot be measured on rows that mix samples (wrapped packing)",
            str(run.run_yaml),
            "measure loss and perplexity alone: --tasks loss",
        )
    rows = source_rows(loaded, asked.split, samples) if any(one.takes_row for one in metrics) else {}
    job = Job(
        subject=subject,
        adapter=next(reversed(subject.adapters), ""),
        samples=samples,
        metrics=names,
        rows=rows,
        processes=min(asked.processes, len(samples)),
        batch_size=asked.batch_size,
        max_new_tokens=asked.max_new_tokens,
        device=asked.device,
    )
    places = "1 process" if job.processes == 1 else f"{job.processes} processes"
    say(f"evaluating {len(samples):,} samples of the {asked.split} split, base and tuned, in {places}")
    scores = evaluate(job, say)
    adapter = subject.adapters.get(job.adapter)
    card = Scorecard(
        split=asked.split,
        samples=len(samples),
        step=subject.step if asked.adapter is None else None,
        seconds=round(time.monotonic() - started, 1),
        adapter=None if adapter is None else str(adapter.adapter.absolute()),
        **{side: means(scores[side]) for side in SIDES},
    )
    if asked.predictions is not None:
        _write(asked.predictions, _predictions(job, scores))
    _write(run.kit / EVAL_JSON, card.to_json())
    return card


def _subject(source: str, asked: Asked) -> Subject:
    """Find the run's own adapter or model, or another adapter in its place."""
    adapters = [] if asked.adapter is None else [asked.adapter]
    subject = find_subject(source, adapters, base=asked.base)
    if not subject.adapters and subject.untrained is None:
        return subject
    if adapters and len(subject.adapters) < 2:
        raise UserError(
            f"{source} trained a whole model, on which no adapter belongs", "--adapter", "leave it out"
        )
    if not subject.adapters and _is_merged(subject):
        raise UserError(
            f"{source} is a merged model, which is no adapter any more",
            fix=f"evaluate the adapter: sft eval {Path(source).parent}",
        )
    return subject


def _is_merged(subject: Subject) -> bool:
    return subject.run is not None and Path(subject.base).resolve() == subject.run.merged.resolve()


def _predictions(job: Job, scores: dict[Any, list[Scored]]) -> str:
    """Write what base and tuned model have answered, a line of JSON a sample."""
    lines = []
    for sample, base, tuned in zip(job.samples, scores["base"], scores["tuned"], strict=True):
        told: dict[str, Any] = {"id": sample.id, "row": sample.place}
        told |= {name: tuned.told[name] for name in ("prompt", "reference") if name in tuned.told}
        for side, one in (("base", base), ("tuned", tuned)):
            told[side] = {"loss": one.loss, "tokens": one.tokens, **one.scores}
            told[side] |= {"answer": one.told["prediction"]} if one.told else {}
        lines.append(json.dumps(told, ensure_ascii=False) + "\n")
    return "".join(lines)


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise UserError(
            f"the results cannot be written: {error.strerror}",
            str(path),
            "see that the directory is yours and has room",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error
