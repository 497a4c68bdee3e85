"""How much a run trains on: rows of an epoch and their length, from the first rows of its data and the size of its files.

An estimate, for the time that a run takes; `sft data stats` counts all rows.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from sft.check.answers import Answers, data_question
from sft.check.local_rows import train_rows
from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.data.block import SourceFile
from sft.data.unprepared import unprepared_reason
from sft.errors import UserError
from sft.plan.plan import Plan

SAMPLE_ROWS = 128
SAMPLE_BYTES = 4 << 20
PACKED_FULL = 0.98
"""How full packed rows are, of a set that is not tiny (docs/benchmarks.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What an epoch holds, and how long a run is.

    Attributes:
        rows: as the trainer sees them: packed rows under packing.
        steps: optimizer steps of the whole run.
        is_counted: the rows were counted, and not taken from the size of the files.
        positions: of a row in a micro-batch on average, its padding included; None where nobody can say.
        longest: tokens of the longest of the first rows, as it is trained.
    """

    rows: int
    steps: int
    is_counted: bool
    positions: float | None = None
    longest: int | None = None

    def line(self) -> str:
        """Say it for people."""
        about = "" if self.is_counted else "about "
        length = "" if self.positions is None else f" of {self.positions:,.0f} tokens, padding included"
        return f"{about}{self.rows:,} rows{length}: {self.steps:,} steps"


def amount_of(loaded: LoadedRun, plan: Plan) -> Amount | None:
    """Estimate what an epoch holds; None where the data is not on this machine, is not read in rows, or is refused.

    Asked again about the same files it answers from memory: to read and encode the first rows takes half a second.
    """
    if not _is_here(loaded.config):
        return None
    answers = Answers(loaded.config)
    try:
        asked = data_question(loaded.config)
    except OSError:
        return None
    question = {"what": "amount", "micro_batch": plan.micro_batch, "total": plan.batch.total, **asked}
    if (known := answers.find(question)) is not None:
        return Amount(**known)
    amount = _read(loaded, plan)
    if amount is not None:
        answers.keep(question, asdict(amount))
    return amount


def _read(loaded: LoadedRun, plan: Plan) -> Amount | None:
    """Read the first rows, and encode them."""
    from sft.data.padding import ORDERS, padding_share
    from sft.data.prepare import preview

    config, training = loaded.config, loaded.config.training
    if unprepared_reason(config) is not None:
        return None
    try:
        rows, is_counted = _rows(config)
    except UserError:
        return None  # told by the check of the data
    if rows is None:
        return None
    try:
        with preview(loaded, SAMPLE_ROWS, lambda line: None) as entry:
            summary, lengths = entry.summary("train"), entry.lengths("train")
    except UserError:
        # Without a tokenizer, for one: the rows are known, and how long they are is not.
        return (
            None
            if training.packing
            else Amount(rows=rows, steps=_steps(config, plan, rows), is_counted=is_counted)
        )
    kept = summary.trained + summary.truncated
    if not kept:
        return None
    trained = rows * kept / summary.rows_read
    mean = summary.tokens / kept
    cut = lengths if summary.max_length is None else lengths.clip(max=summary.max_length)
    if summary.packed and summary.max_length:
        mean, trained, is_counted = (
            summary.max_length,
            trained * mean / (summary.max_length * PACKED_FULL),
            False,
        )
    elif not training.padding_free:
        order = training.train_sampling_strategy
        padding = padding_share(cut, order if order in ORDERS else "random", micro_batch=plan.micro_batch)
        mean /= 1 - padding
    return Amount(
        rows=math.ceil(trained),
        positions=mean,
        longest=int(cut.max()),
        steps=_steps(config, plan, math.ceil(trained)),
        is_counted=is_counted,
    )


def _steps(config: RunConfig, plan: Plan, rows: int) -> int:
    training = config.training
    if training.max_steps > 0:
        return training.max_steps
    return math.ceil(training.num_train_epochs * math.ceil(rows / plan.batch.total))


def _is_here(config: RunConfig) -> bool:
    data = [config.script.dataset_name, *(source.path for source in config.mixture.datasets)]
    names = [config.model.model_name_or_path, *data]
    return config.kit.dataset_mixture is None and all(Path(name).exists() for name in names if name)


def _rows(config: RunConfig) -> tuple[int | None, bool]:
    """Return the rows to train on, and whether they were counted."""
    counted = train_rows(config)
    if counted is not None:
        return counted, True
    from sft.data.readers.read import count_rows
    from sft.data.source import open_splits

    train, _ = open_splits(config.script, config.mixture, evaluates=False)
    total = 0.0
    is_counted = True
    for part in train.parts:
        for file in part.files:
            if file.kind in ("parquet", "arrow"):
                total += count_rows(file)
            elif (density := _rows_a_byte(file)) is not None:
                total += density * Path(file.path).stat().st_size
                is_counted = False
            else:
                return None, False
    return math.ceil(total), is_counted


def _rows_a_byte(file: SourceFile) -> float | None:
    """Count the rows of a file's beginning; None of a table, whose lines are no rows, or of what is compressed."""
    if file.kind not in ("jsonl", "text", "json") or file.compression is not None:
        return None
    with Path(file.path).open("rb") as stream:
        start = stream.read(SAMPLE_BYTES)
    if file.kind == "json":
        from sft.data.readers.json_rows import elements_in

        rows = elements_in(file, start)
    else:
        rows = start.count(b"\n")
    return rows / len(start) if rows else None
