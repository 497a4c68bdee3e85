"""Prove that a run needs no network: everything that its ranks load lies on this machine's file systems.

`look` runs in a sealed process (`sft.check.sealed`) and opens what the launch and the ranks open, in the same way: the
tokenizer and the data through `sft.data`, the model's files by their own lists. No torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft.check import sealed
from sft.check.code import code_references, missing_code
from sft.check.filesystem import gib
from sft.check.found import Found
from sft.check.needs import (
    ModelNeed,
    data_needs,
    has_addresses,
    is_data_on_hub,
    model_needs,
    require_one_cache,
)
from sft.config.loader import LoadedRun, load_run
from sft.config.run import RunConfig
from sft.data.cache import Entry
from sft.data.locate import Wanted, locate
from sft.data.prepare import find, prepare
from sft.data.settings import tokenizer_files
from sft.data.unprepared import unprepared_reason
from sft.errors import ExitCode, Problem, UserError
from sft.hub.cached import cache_directory, snapshot_of
from sft.plan.weights import missing_weights, weight_files

LOOK = "sft.check.offline:look_here"
PREPARED = "the prepared data"


def fetch_command(path: Path | str, words: Sequence[str]) -> str:
    """Return the command that brings what a run needs."""
    return shlex.join(["sft", "fetch", str(path), *words])


def look(path: Path, words: Sequence[str], *, make: bool = False) -> Found:
    """Look, without a network, whether a run has all that it reads.

    Args:
        make: prepare the data if only that is missing.

    Raises:
        UserError: the run file, or with `make` the data, is refused.
    """
    answer = sealed.call(LOOK, {"path": str(path), "words": list(words), "make": make})
    values = answer.value
    found = Found(**{**values, "problems": [Problem(**problem) for problem in values["problems"]]})
    for place in answer.attempts:
        found.problems.append(
            Problem(
                f"the run asks for {place}, which a compute node may not reach",
                str(path),
                "look at what the run file loads from elsewhere: data_files by address, code of your own",
            )
        )
    if not answer.attempts:
        found.lines.append("no connection was tried")
    return found


def require_all(found: Found) -> None:
    """Refuse a run that would need a network.

    Raises:
        UserError: everything that is missing, each with what brings it.
    """
    if found.problems:
        raise UserError.of(found.problems, exit_code=ExitCode.ENVIRONMENT)


def look_here(path: str, words: list[str], make: bool) -> dict[str, Any]:
    """Be the sealed process of `look`."""
    import os

    loaded = load_run(Path(path), words)
    require_one_cache(loaded.config, os.environ)
    found, again = Found(), fetch_command(path, words)
    for need in model_needs(loaded.config):
        _look_for_model(found, need, loaded, again)
    for wanted in data_needs(loaded.config):
        _look_for_data(found, wanted, loaded, again)
    _look_for_kernel(found, loaded)
    if not found.missing and not found.problems:
        _look_for_prepared(found, loaded, again, make=make)
    return asdict(found)


def _look_for_model(found: Found, need: ModelNeed, loaded: LoadedRun, again: str) -> None:
    directory: Path | None = Path(need.name)
    where = loaded.where(need.key)
    what = "model" if need.weights else "tokenizer"
    if need.is_on_hub:
        directory = snapshot_of(need.name, need.revision)
        again = f"where there is a network: {again}"
    else:
        again = "copy it there again, whole"
    if directory is None:
        found.missing.append(need.name)
        revision = f" at {need.revision}" if need.revision else ""
        said = f"the {what} {need.name}{revision} is not in the Hub's cache {cache_directory()}"
        found.problems.append(Problem(said, where, again))
        return
    absent = [] if (directory / "config.json").is_file() or not need.weights else ["config.json is not there"]
    absent += missing_weights(directory) if need.weights else []
    if need.code:
        absent += [
            f"{name} is not there, which its auto_map or its code names" for name in missing_code(directory)
        ]
        absent += _missing_elsewhere(directory)
    if absent:
        found.missing.append(need.name)
        found.problems += [
            Problem(f"the {what} {need.name} is not whole: {reason}", f"{where}, {directory}", again)
            for reason in absent
        ]
        return
    found.places.append(str(directory))
    if need.weights:
        found.model = str(directory)
        files = weight_files(directory)
        size = gib(sum(file.stat().st_size for file in files))
        plural = "" if len(files) == 1 else "s"
        found.lines.append(f"{need.name}: {len(files)} file{plural} of weights, {size}, whole")


def _missing_elsewhere(directory: Path) -> list[str]:
    """Say which code of other repositories a model refers to, and the cache lacks."""
    absent = []
    for repository, name in code_references(directory):
        if repository is not None:
            place = snapshot_of(repository, None)
            lacking = [name] if place is None else missing_code(place, [name])
            absent += [f"{file} of {repository} is not in the cache" for file in lacking]
    return sorted(set(absent))


def _look_for_data(found: Found, wanted: Wanted, loaded: LoadedRun, again: str) -> None:
    streaming = unprepared_reason(loaded.config)
    where = loaded.where(wanted.key)
    if streaming is not None:
        if is_data_on_hub(wanted) or has_addresses(wanted):
            what = f"the rows of {wanted.path} are read from the network while the run trains ({streaming})"
            fix = "remove dataset_streaming (streaming in a mixture): the data is then fetched and prepared before"
            found.problems.append(Problem(what, where, fix))
        return
    if not is_data_on_hub(wanted) and not has_addresses(wanted):
        return
    try:
        locate(wanted)
    except UserError:
        found.missing.append(wanted.path)
        what = f"the data set {wanted.path} is not in the cache of `datasets`"
        found.problems.append(Problem(what, where, f"where there is a network: {again}"))


def _look_for_prepared(found: Found, loaded: LoadedRun, again: str, *, make: bool) -> None:
    config = loaded.config
    reason = unprepared_reason(config)
    if reason is not None:
        tokenizer_files(config, found.lines.append)
        found.lines.append(reason)
        return
    entry = prepare(loaded) if make else _found(loaded, found)
    if entry is None:
        if not found.problems:
            found.missing.append(PREPARED)
            what = "the data is not prepared yet: the first rank's launch would do it, on the compute node"
            found.problems.append(Problem(what, loaded.where("data_cache"), again))
        return
    found.places.append(str(entry.directory))
    found.rows = entry.summary("train").rows
    found.lines += [f"prepared data: {entry.directory}", *entry.lines()]


def _found(loaded: LoadedRun, found: Found) -> Entry | None:
    try:
        return find(loaded)
    except UserError as error:
        found.problems += error.problems
        return None


def _look_for_kernel(found: Found, loaded: LoadedRun) -> None:
    """Tell of attention that the ranks would fetch as a compiled kernel; which build fits, only their GPU knows."""
    name = _kernel(loaded.config)
    if name is None:
        return
    folder = name.replace("/", "--")
    if any(place.glob("snapshots/*/build") for place in cache_directory().glob(f"*--{folder}")):
        return
    found.problems.append(
        Problem(
            f"the attention kernel {name} is fetched from the Hub when the model is loaded, and is not in its cache",
            loaded.where("attn_implementation"),
            "load it once on a node with such a GPU and a network, with the same HF_HOME; or set"
            " attn_implementation: sdpa",
        )
    )


def _kernel(config: RunConfig) -> str | None:
    """Name the repository of a kernel, as `attn_implementation` may: `paged|OWNER/NAME@REVISION:function`."""
    name = (config.model.attn_implementation or "").rpartition("|")[2].partition(":")[0].partition("@")[0]
    return name if "/" in name else None
