"""Warm-up, evaluation, saves and the end of a run fit the steps that it has."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sft.check.finding import Finding, error, note, warning
from sft.check.local_rows import train_rows
from sft.check.subject import Subject

NAME = "steps"
COST = "counts the rows of small local data"
NEEDS = "a plan"

FIT_ALL = (None, "bfd")
"""Packing under which there are no more rows than samples."""


def look(subject: Subject) -> Iterator[Finding]:
    """Compare the numbers; how many steps there are is only known where the rows are counted, or max_steps says."""
    yield from _no_steps(subject)
    yield from _best(subject)
    rows = None if subject.found is None else subject.found.rows
    rows = train_rows(subject.config) if rows is None else rows
    steps = _most_steps(subject, rows)
    if rows is not None:
        yield from _rows(subject, rows)
    if steps is not None and steps > 0:
        yield from _within(subject, steps)
        yield from _patience(subject, steps)


def _no_steps(subject: Subject) -> Iterator[Finding]:
    training = subject.config.training
    if training.max_steps <= 0 and training.num_train_epochs <= 0:
        yield error(
            f"num_train_epochs {training.num_train_epochs:g} trains nothing",
            subject.where("num_train_epochs"),
            "set num_train_epochs: 1, or max_steps",
        )
    limit = training.save_total_limit
    if limit is not None and limit < 1:
        yield warning(
            f"save_total_limit {limit} is no limit: every checkpoint is kept",
            subject.where("save_total_limit"),
            "set save_total_limit: 1 to keep the newest; or save_strategy: no to save none on the way",
        )


def _best(subject: Subject) -> Iterator[Finding]:
    """transformers: "requires the saving steps to be a round multiple of the evaluation steps", once torch is up."""
    training = subject.config.training
    if not training.load_best_model_at_end or {training.save_strategy, training.eval_strategy} != {"steps"}:
        return
    saves, evaluations = training.save_steps, training.eval_steps or training.logging_steps
    if saves % evaluations == 0:
        return
    if (saves < 1) != (evaluations < 1):
        yield error(
            f"save_steps {saves:g} and eval_steps {evaluations:g} are counted in different ways: one is a share of the"
            " run",
            subject.where("save_steps"),
            "give both as numbers of steps, or both as shares",
        )
        return
    ratio = saves / evaluations
    if abs(ratio - round(ratio)) > 1e-9 or round(ratio) < 1:
        fit = max(1, round(ratio)) * evaluations
        yield error(
            f"load_best_model_at_end needs an evaluation at every save, and save_steps {saves:g} is no multiple of"
            f" eval_steps {evaluations:g}",
            subject.where("save_steps"),
            f"set save_steps: {fit:g}",
        )


def _most_steps(subject: Subject, rows: int | None) -> int | None:
    """Return how many steps the run has at most."""
    assert subject.plan is not None
    training = subject.config.training
    if training.max_steps > 0:
        return training.max_steps
    packing = training.packing_strategy if training.packing else None
    if rows is None or packing not in FIT_ALL:
        return None
    return math.ceil(training.num_train_epochs * max(1, math.ceil(rows / subject.plan.batch.total)))


def _rows(subject: Subject, rows: int) -> Iterator[Finding]:
    assert subject.plan is not None
    batch, training = subject.plan.batch, subject.config.training
    if training.packing and training.packing_strategy not in FIT_ALL:
        return
    at_once = batch.micro_batch * batch.processes
    key = (
        "total_train_batch_size"
        if subject.config.kit.total_train_batch_size
        else "per_device_train_batch_size"
    )
    if training.dataloader_drop_last and rows < at_once:
        yield error(
            f"{rows:,} rows fill no batch of {at_once} ({batch.micro_batch} on {batch.processes} processes), and"
            " dataloader_drop_last drops what fills none: nothing is trained",
            subject.where("dataloader_drop_last"),
            "set dataloader_drop_last: false",
        )
    elif rows < batch.total:
        yield warning(
            f"a step takes {batch.total} rows, and there are {rows:,}: every epoch is one step, of less than was asked"
            " for",
            subject.where(key),
            f"lower {key}, or gradient_accumulation_steps",
        )


def _within(subject: Subject, steps: int) -> Iterator[Finding]:
    """Tell what was asked for at a step that does not come."""
    training = subject.config.training
    many = f"{steps:,} step{'' if steps == 1 else 's'} at most"
    if training.warmup_steps >= steps and training.warmup_steps >= 1:
        yield warning(
            f"warmup_steps {training.warmup_steps:g} is the whole run, which has {many}: the learning rate never comes"
            f" to {training.learning_rate:g}",
            subject.where("warmup_steps"),
            "set warmup_steps: 0.03, a share of the run",
        )
    if training.eval_strategy == "steps":
        delay = training.eval_delay
        if delay > steps:
            yield warning(
                f"eval_delay {delay:g} is longer than the run, which has {many}: nothing is ever evaluated",
                subject.where("eval_delay"),
                "set eval_delay: 0",
            )
        elif "eval_steps" in subject.loaded.sources and (training.eval_steps or 0) > steps:
            yield warning(
                f"eval_steps {training.eval_steps:g} never comes: the run has {many}, so nothing is evaluated before its"
                " end",
                subject.where("eval_steps"),
                "set eval_steps: 0.1, a tenth of the run",
            )
    if (
        training.save_strategy == "steps"
        and "save_steps" in subject.loaded.sources
        and training.save_steps > steps
    ):
        yield note(
            f"save_steps {training.save_steps:g} never comes: the run has {many}, and is saved at its end"
        )


def _patience(subject: Subject, steps: int) -> Iterator[Finding]:
    patience, training = subject.config.kit.early_stopping_patience, subject.config.training
    if patience is None or training.eval_strategy != "steps":
        return
    every = training.eval_steps or training.logging_steps
    evaluations = math.ceil(1 / every) if every < 1 else math.ceil(steps / every)
    if evaluations <= patience:
        yield warning(
            f"the run evaluates {evaluations} times at most, and early_stopping_patience {patience} takes more: it"
            " never stops early",
            subject.where("early_stopping_patience"),
            "lower eval_steps, or early_stopping_patience",
        )
