"""Bring to this machine's file systems what a run reads: model, tokenizer, code, data, and the data prepared.

Without a network it is first seen what is missing; only that is asked for. At the end the same look, in a process that
reaches no network, prepares the data and proves that nothing is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from sft.check.code import other_repositories
from sft.check.filesystem import gib, node_local, room
from sft.check.found import Found
from sft.check.needs import (
    ModelNeed,
    data_needs,
    has_addresses,
    is_data_on_hub,
    model_needs,
    require_one_cache,
)
from sft.check.offline import look, require_all
from sft.config.loader import LoadedRun
from sft.data.cache import default_cache
from sft.data.locate import Wanted, locate
from sft.data.remote import remote_files
from sft.data.tokenizer import IGNORED, PATTERNS
from sft.errors import ExitCode, Problem, UserError
from sft.hub.cached import absent_bytes, cache_directory
from sft.hub.fetch import ModelFetch, bring, choose_model, list_repository, patiently
from sft.hub.hashes import Checked
from sft.hub.refusals import gated, refusals
from sft.mounts import existing

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DataFetch:
    """A data set that `datasets` will download and turn into Arrow files."""

    wanted: Wanted
    bytes: int
    arrow_bytes: int


def fetch(loaded: LoadedRun, path: Path, words: Sequence[str], *, refresh: bool, say: Say) -> Found:
    """Bring what is missing.

    Args:
        path, words: the run file and its overrides, for the process that looks.
        refresh: ask the Hub for newer commits of what is here.

    Raises:
        UserError: it cannot be had, or there is no room for it.
    """
    config = loaded.config
    require_one_cache(config, os.environ)
    models = [need for need in model_needs(config) if need.is_on_hub]
    data = [wanted for wanted in data_needs(config) if is_data_on_hub(wanted) or has_addresses(wanted)]
    if not models and not data:
        say("nothing to download: the model and the data are paths on this machine")
    for warning in place_warnings(loaded):
        say(f"warning: {warning}")
    found = look(path, words)
    if not found.problems and not (refresh and (models or data)):
        say("everything is here already: nothing was asked for, and nothing downloaded")
        return found
    if not refresh:
        models = [need for need in models if need.name in found.missing]
        data = [wanted for wanted in data if wanted.path in found.missing]
    _download(loaded, models, data, say)
    found = look(path, words, make=True)
    require_all(found)
    return found


def place_warnings(loaded: LoadedRun) -> list[Problem]:
    """Warn of a cache that the compute nodes will not see."""
    config = loaded.config
    needs = model_needs(config)
    places = [("the prepared data", data_cache(loaded), "data_cache (or SFT_CACHE)")]
    if any(map(is_data_on_hub, data_needs(config))):
        places.insert(0, ("the cache of `datasets`", datasets_cache(), "HF_HOME"))
    if any(need.is_on_hub for need in needs):
        places.insert(0, ("the Hub's cache", cache_directory(), "HF_HOME"))
    of_reason: dict[str, list[tuple[str, Path, str]]] = {}
    for place in places:
        if (reason := node_local(place[1])) is not None:
            of_reason.setdefault(reason, []).append(place)
    return [
        Problem(
            f"compute nodes will not see {' and '.join(name for name, _, _ in found)}: {reason}",
            ", ".join(str(place) for _, place, _ in found),
            f"set {' and '.join(dict.fromkeys(setting for _, _, setting in found))} to directories that every node"
            " sees, here and in the job",
        )
        for reason, found in of_reason.items()
    ]


def datasets_cache() -> Path:
    """Return where `datasets` keeps Arrow files."""
    given = os.environ.get("HF_DATASETS_CACHE")
    return Path(given).expanduser() if given else Path(constants.HF_HOME).expanduser() / "datasets"


def data_cache(loaded: LoadedRun) -> Path:
    """Return where prepared data is kept."""
    return Path(loaded.config.kit.data_cache or default_cache())


def _download(loaded: LoadedRun, models: Sequence[ModelNeed], data: Sequence[Wanted], say: Say) -> None:
    if not models and not data:
        return
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            "something has to be fetched, and the libraries are told to stay offline",
            where="HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) in the environment",
            fix="unset it for this one command, where there is a network",
            exit_code=ExitCode.ENVIRONMENT,
        )
    chosen = [(need, _choose(need, loaded, say)) for need in models]
    sized = [_size(wanted, loaded, say) for wanted in data]
    _require_room([fetch for _, fetch in chosen], sized, say)
    checked = Checked(data_cache(loaded) / "fetched")
    for need, fetch in chosen:
        with refusals(need.name, loaded.where(need.key), revision=need.revision):
            place = patiently(lambda fetch=fetch: bring(fetch, checked, say), say)  # type: ignore[misc]
        say(f"{need.name}: {len(fetch.names)} files, whole and as the Hub has them")
        for name in other_repositories(place) if need.code else ():
            _bring_code(name, loaded.where(need.key), checked, say)
    for one in sized:
        with _data_refusals(one.wanted, loaded):
            patiently(lambda one=one: locate(one.wanted), say)  # type: ignore[misc]
        say(f"{one.wanted.path}: here, in {datasets_cache()}")


def _choose(need: ModelNeed, loaded: LoadedRun, say: Say) -> ModelFetch:
    with refusals(need.name, loaded.where(need.key), revision=need.revision):
        found = patiently(
            lambda: choose_model(
                need.name,
                need.revision,
                patterns=PATTERNS,
                ignored=IGNORED,
                weights=need.weights,
                code=need.code,
            ),
            say,
        )
    pickles = [name for name in found.names if name.endswith(".bin")]
    if pickles:
        say(f"warning: {need.name} has no safetensors; its weights are pickles, such as {pickles[0]}")
    commit = f"{need.revision or constants.DEFAULT_REVISION} is {found.listing.commit[:8]}"
    left = found.absent_bytes
    say(
        f"{need.name} ({commit}): {len(found.names)} files, {gib(found.bytes)}, {gib(left)} of it to download"
    )
    return found


def _bring_code(name: str, where: str, checked: Checked, say: Say) -> None:
    """Bring the Python files of another repository, which a model's configuration refers to."""
    with refusals(name, where):
        found = patiently(
            lambda: choose_model(name, None, patterns=(), ignored=IGNORED, weights=False, code=True), say
        )
        patiently(lambda: bring(found, checked, say), say)
    say(f"{name}: the code that the model refers to")


def _size(wanted: Wanted, loaded: LoadedRun, say: Say) -> DataFetch:
    """Ask what a data set comes to; what the Hub refuses is told here, before anything is downloaded."""
    if not is_data_on_hub(wanted):
        say(f"{wanted.path}: files by address, of a size that is not known before")
        return DataFetch(wanted, 0, 0)
    with refusals(wanted.path, loaded.where(wanted.key), kind="data set"):
        listing = patiently(lambda: list_repository(wanted.path, None, "dataset"), say)
    with _data_refusals(wanted, loaded):
        names, arrow = patiently(lambda: remote_files(wanted), say)
    files = [listing.files[name] for name in names if name in listing.files]
    left = absent_bytes(wanted.path, files, "dataset")
    say(
        f"{wanted.path}: {len(files)} files, {gib(sum(f.size for f in files))}, {gib(left)} of it to download"
    )
    return DataFetch(wanted, left, arrow or sum(file.size for file in files))


@contextmanager
def _data_refusals(wanted: Wanted, loaded: LoadedRun) -> Iterator[None]:
    """Tell what `datasets` raises as what it is: of the environment, and at its place in the run file."""
    where = loaded.where(wanted.key)
    try:
        with refusals(wanted.path, where, kind="data set"):
            yield
    except UserError as error:
        if isinstance(error.__cause__, OSError):  # not found, gated, no network
            error.exit_code = ExitCode.ENVIRONMENT
        if "gated" in error.problems[0].what:  # `datasets` lets the Hub's own error go
            error.problems = (gated(wanted.path, where, "data set"),)
        error.problems = tuple(
            Problem(problem.what, loaded.sources.get(problem.where or "", problem.where), problem.fix)
            for problem in error.problems
        )
        raise


def _require_room(models: Sequence[ModelFetch], data: Sequence[DataFetch], say: Say) -> None:
    """Say what will be downloaded, and refuse what does not fit on the file systems that it goes to."""
    needed: dict[int, tuple[Path, int]] = {}
    loads = [(cache_directory(), fetch.absent_bytes) for fetch in models]
    loads += [(cache_directory(), one.bytes) for one in data]
    loads += [(datasets_cache(), one.arrow_bytes) for one in data]
    for place, size in loads:
        device = existing(place).stat().st_dev
        needed[device] = (needed.get(device, (place, 0))[0], needed.get(device, (place, 0))[1] + size)
    total = sum(fetch.absent_bytes for fetch in models) + sum(one.bytes for one in data)
    for place, size in needed.values():
        left = room(place)
        if size > left.bytes:
            raise UserError(
                f"{gib(size)} have to go to {place} (of which {gib(total)} are downloaded), and {gib(left.bytes)}"
                f" {left.bound}",
                where=str(left.place),
                fix="make room there, or set HF_HOME to a place that has it and that every node sees",
                exit_code=ExitCode.ENVIRONMENT,
            )
        say(f"to download: {gib(total)}, into {place} ({gib(left.bytes)} {left.bound})")
