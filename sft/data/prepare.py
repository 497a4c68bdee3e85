"""Prepare the data of a run, once: what the cache has is taken from it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.data.block import Split
from sft.data.cache import Cache, Entry, default_cache
from sft.data.fingerprint import digest_of
from sft.data.judge import cut_answers
from sft.data.make import make_entry, to_stderr
from sft.data.settings import PrepareSettings, prepare_settings
from sft.data.source import open_splits
from sft.data.unprepared import unprepared_reason
from sft.errors import Problem, UserError

ENTRY = "SFT_DATA"
"""Names the entry that a launch has prepared, for its ranks."""


def prepare(loaded: LoadedRun, say: Callable[[str], None] = to_stderr) -> Entry:
    """Return the prepared data of a run file, making it if it is not in the cache.

    Raises:
        UserError: the data, the tokenizer or the template is not there, is broken, or is refused.
    """
    with _placed(loaded):
        settings, splits, cache = _inputs(loaded.config, say)
        digest = digest_of(settings.identity(), splits, cache.files)
        entry = cache.find(digest)
        if entry is not None:
            _judge_again(entry, settings)
            return entry
        with cache.making(digest, say) as directory:
            if cache.find(digest) is None:
                make_entry(directory, splits, settings, say)
        entry = cache.find(digest)
        if entry is None:
            raise UserError(
                "the prepared data has gone from the cache while it was opened",
                where=str(cache.directory),
                fix="start again, and remove nothing from the cache meanwhile",
            )
        return entry


def find(loaded: LoadedRun, say: Callable[[str], None] = to_stderr) -> Entry | None:
    """Return the prepared data of a run file if the cache has it."""
    with _placed(loaded):
        settings, splits, cache = _inputs(loaded.config, say)
        return cache.find(digest_of(settings.identity(), splits, cache.files))


@contextmanager
def preview(
    loaded: LoadedRun,
    limit: int,
    say: Callable[[str], None] = to_stderr,
    refused: Callable[[UserError], None] | None = None,
) -> Iterator[Entry]:
    """Prepare the first rows of each split aside, to be looked at; gone when the block ends.

    Args:
        refused: takes what would be raised of rows that are not accepted.
    """
    with tempfile.TemporaryDirectory(prefix="sft-preview-") as place, _placed(loaded):
        settings, splits, _ = _inputs(loaded.config, say)
        directory = Path(place)
        manifest = make_entry(directory, splits, settings, say, limit=limit, refused=refused)
        yield Entry(directory, manifest)


def handed_over() -> Entry | None:
    """Return the entry that the launch of this process has prepared."""
    place = os.environ.get(ENTRY)
    return Entry.open(Path(place)) if place else None


def _inputs(
    config: RunConfig, say: Callable[[str], None]
) -> tuple[PrepareSettings, tuple[Split, Split | None], Cache]:
    reason = unprepared_reason(config)
    if reason is not None:
        raise UserError(reason, where=reason.partition(":")[0], fix="remove it")
    splits = open_splits(
        config.script,
        config.mixture,
        evaluates=config.training.eval_strategy != "no",
        validation_fraction=config.kit.validation_fraction,
        dataset_mixture=config.kit.dataset_mixture,
    )
    settings = prepare_settings(config, say)
    cache = Cache(Path(config.kit.data_cache) if config.kit.data_cache else default_cache())
    return settings, splits, cache


def _judge_again(entry: Entry, settings: PrepareSettings) -> None:
    """Hold an entry against what is accepted now: those settings do not change its bytes."""
    for role in entry.manifest["splits"]:
        summary = entry.summary(role)
        if settings.strict and summary.dropped:
            told = ", ".join(f"{count:,} {reason}" for reason, count in summary.reasons.items())
            raise UserError(
                f"{summary.dropped:,} rows of the {role} split are dropped: {told}",
                where=str(entry.directory / "dropped.jsonl"),
                fix="mend or remove the rows that are listed there",
            )
        problems = cut_answers(role, summary, entry.lengths(role), settings)
        if problems:
            raise UserError.of(problems)


@contextmanager
def _placed(loaded: LoadedRun) -> Iterator[None]:
    """Say where in the run file a key was set, where a problem could only name it."""
    try:
        yield
    except UserError as error:
        error.problems = tuple(
            Problem(problem.what, loaded.sources.get(problem.where or "", problem.where), problem.fix)
            for problem in error.problems
        )
        raise
