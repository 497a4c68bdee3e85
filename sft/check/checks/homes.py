"""The caches that a run writes to can be written, and have room; variables that name them are read by somebody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sft.check.filesystem import gib, room
from sft.check.finding import Finding, error, warning
from sft.check.needs import data_needs, is_data_on_hub, model_needs
from sft.check.subject import Subject
from sft.check.try_writing import refusal
from sft.data.unprepared import unprepared_reason
from sft.errors import ExitCode

NAME = "caches"
COST = "writes 4 KiB to a file without a name in each cache that is needed; free bytes and quotas"
NEEDS = "nothing"

UNREAD = {
    "TRANSFORMERS_CACHE": "HF_HUB_CACHE",
    "PYTORCH_TRANSFORMERS_CACHE": "HF_HUB_CACHE",
    "PYTORCH_PRETRAINED_BERT_CACHE": "HF_HUB_CACHE",
}
"""Variables that transformers 5 reads no more -> what is read instead."""
READ_FIRST = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")
BILLIONS = re.compile(r"(?:^|[-_/])(?:(\d+)x)?(\d+(?:\.\d+)?)[bB](?:$|[-_.])")
HALF = 2 * 10**9
"""Bytes of a billion weights in sixteen bits."""


def look(subject: Subject) -> Iterator[Finding]:
    """Look at the caches where this run would write to them."""
    yield from _unread(subject)
    fetches = _fetches(subject)
    if fetches:
        yield from _hub(subject, fetches)
    yield from _prepared(subject)
    if not subject.in_batch:
        yield from _scratch(subject)
    yield from _views(subject)


def _fetches(subject: Subject) -> list[str]:
    """Name what is still to be fetched from the Hub."""
    if subject.environment.get("HF_HUB_OFFLINE", "0") not in ("", "0") or subject.offline:
        return []
    names = [need.name for need in model_needs(subject.config) if need.is_on_hub]
    if subject.model_directory is not None:
        names = [name for name in names if name != subject.config.model.model_name_or_path]
    return names + [wanted.path for wanted in data_needs(subject.config) if is_data_on_hub(wanted)]


def _unread(subject: Subject) -> Iterator[Finding]:
    environment = subject.environment
    if any(environment.get(name) for name in READ_FIRST):
        return
    for name, instead in UNREAD.items():
        if environment.get(name):
            yield warning(
                f"{name} is read by nothing any more: models are fetched to ~/.cache/huggingface",
                f"{name}={environment[name]}",
                f"export {instead}={environment[name]}",
            )


def _hub(subject: Subject, names: list[str]) -> Iterator[Finding]:
    """Hold the Hub's cache against what is fetched; how large a model is, its name may tell."""
    from sft.hub.cached import cache_directory  # huggingface_hub takes a while to start

    cache = cache_directory()
    fix = "export HF_HOME with a directory of yours that has room and that every node sees, here and in launch.setup"
    where = next(
        (f"{name}={subject.environment[name]}" for name in READ_FIRST if subject.environment.get(name)), None
    )
    if found := refusal(cache):
        place, reason = found
        yield error(
            f"{names[0]} is to be fetched, and the Hub's cache {cache} cannot be written: {place}: {reason}",
            where or "HF_HOME, which is not set",
            fix,
            exit_code=ExitCode.ENVIRONMENT,
        )
        return
    size = _bytes_by_name(subject.config.model.model_name_or_path or "")
    if size is None or subject.config.model.model_name_or_path not in names:
        return
    have = room(cache)
    if size > have.bytes:
        yield warning(
            f"{subject.config.model.model_name_or_path} is to be fetched, some {gib(size)} by its name, and {gib(have.bytes)}"
            f" {have.bound} on {have.place}",
            where or "HF_HOME, which is not set",
            fix,
        )


def _bytes_by_name(name: str) -> int | None:
    """Estimate a model's bytes by the billions in its name."""
    found = BILLIONS.search(name.rpartition("/")[2])
    if found is None:
        return None
    return int(float(found[2]) * (int(found[1]) if found[1] else 1) * HALF)


def _prepared(subject: Subject) -> Iterator[Finding]:
    if unprepared_reason(subject.config) is not None:
        return
    given = subject.config.kit.data_cache
    if given is None:
        from sft.data.cache import default_cache

        cache = default_cache()
    else:
        cache = Path(given)
    if found := refusal(cache):
        place, reason = found
        yield error(
            f"the prepared data cannot be written to {cache}: {place}: {reason}",
            subject.where("data_cache") if given else "data_cache, which is not set (nor SFT_CACHE)",
            "set data_cache (or $SFT_CACHE) to a directory of yours that the compute nodes see",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _scratch(subject: Subject) -> Iterator[Finding]:
    """Python passes over a TMPDIR that is not there; compilers and shells do not."""
    given = subject.environment.get("TMPDIR")
    if not given:
        return
    if not Path(given).is_dir():
        what = f"TMPDIR is {given}, which is not there: kernels are compiled, and shells write, to it"
        yield warning(what, f"TMPDIR={given}", f"mkdir -p {given}, or unset TMPDIR")
    elif found := refusal(Path(given)):
        what = f"TMPDIR {given} cannot be written: {found[1]}"
        yield error(
            what, f"TMPDIR={given}", "export TMPDIR=/tmp, or another place", exit_code=ExitCode.ENVIRONMENT
        )


def _views(subject: Subject) -> Iterator[Finding]:
    """W&B keeps what it sends in files, in WANDB_DIR; where it cannot write, it takes the machine's /tmp, and says so."""
    reports = subject.config.training.report_to
    named = [reports] if isinstance(reports, str) else reports or []
    given = subject.environment.get("WANDB_DIR")
    if given and {"wandb", "all"} & set(named) and (found := refusal(Path(given))):
        yield warning(
            f"WANDB_DIR {given} cannot be written: {found[1]}",
            f"WANDB_DIR={given}",
            "export WANDB_DIR with a directory of yours, or unset it",
        )
