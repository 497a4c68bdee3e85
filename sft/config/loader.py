"""Run file, site file and flags into one `RunConfig`, with every problem told together.

```
site.yaml (launch: only) ─┐
run.yaml, or task.py      ├─▶ today's names ─▶ merged, later wins ─▶ $VARS and ~ ─▶ validated ─▶ RunConfig
--flags                  ─┘
```
Pure but for reading the files and the environment, and running a task file: no torch, no network, no clock.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sft.config.entry import Entry
from sft.config.expand import expand_entries
from sft.config.fields import is_key
from sft.config.flags import parse_flags
from sft.config.names import ANYTHING, STORAGE, normalize, settle_storage
from sft.config.rules import check_conditional, check_rules
from sft.config.run import RunConfig
from sft.config.task import is_task, read_task
from sft.config.validate import validate
from sft.config.yaml import read_entries
from sft.errors import Problem, UserError


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run file that was read, where each value came from, and what there is to say about it."""

    config: RunConfig
    sources: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def where(self, key: str) -> str:
        """Say where a key was set, for messages; keys that were not set have the library's default."""
        return self.sources.get(key, "default")


def _place(problem: Problem) -> tuple[str, int]:
    """Order problems by file and line."""
    name, _, line = (problem.where or "").rpartition(":")
    return (name, int(line)) if line.isdigit() else (problem.where or "", 0)


def _site_layer(path: str, problems: list[Problem]) -> dict[str, Entry]:
    """Read the group's defaults: `launch:` and nothing else, so that a run file alone says what is trained."""
    entries, found = read_entries(Path(path).expanduser())
    problems += found
    problems += [
        Problem(f"a site file holds launch: only, not {key}", entry.where, "move it into the run file")
        for key, entry in entries.items()
        if not key.startswith("launch.")
    ]
    return {key: entry for key, entry in entries.items() if key.startswith("launch.")}


def _layers(
    path: Path | None,
    words: Sequence[str],
    environment: Mapping[str, str],
    notes: list[str],
    problems: list[Problem],
) -> list[dict[str, Entry]]:
    """Read the three sources; what is wrong with one does not hide what is wrong with another."""
    layers: list[dict[str, Entry]] = []
    try:
        if environment.get("SFT_SITE"):
            layers.append(_site_layer(environment["SFT_SITE"], problems))
    except UserError as error:
        problems += [Problem(item.what, item.where or "SFT_SITE", item.fix) for item in error.problems]
    try:
        if path is not None:
            if is_task(path):
                entries, found, said = read_task(path)
                notes += said
            else:
                entries, found = read_entries(path)
            problems += found
            layers.append(entries)
    except UserError as error:
        # Without its file, nothing else about the run can be judged.
        raise UserError.of([*problems, *error.problems], exit_code=error.exit_code) from None
    flags, found = parse_flags(list(words))
    problems += found
    return [*layers, flags]


def _merge(
    layers: list[dict[str, Entry]], notes: list[str], problems: list[Problem]
) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Lay the layers over one another, each under today's names; return entries and conditional names."""
    merged: dict[str, Entry] = {}
    conditional: dict[str, Entry] = {}
    for layer in layers:
        normalized = normalize(layer, is_key)
        for key, value in normalized.undone.items():
            if key in merged and value in (ANYTHING, merged[key].value):
                del merged[key]
        merged.update(normalized.entries)
        conditional.update(normalized.conditional)
        notes += normalized.notes
        problems += normalized.problems
    if STORAGE in conditional:
        notes.append(settle_storage(merged, conditional[STORAGE]))
    return merged, conditional


def load_run(
    path: Path | None,
    words: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
) -> LoadedRun:
    """Read a run file, with the words after it as overrides.

    Args:
        path: the run file, YAML or a task file; None reads the flags alone.
        words: `--key value` words, which win over the file.
        environment: what `$VARS` and SFT_SITE are taken from; the process's own by default.

    Raises:
        UserError: every problem of the three sources at once, each with its place.
    """
    environment = os.environ if environment is None else environment
    notes: list[str] = []
    problems: list[Problem] = []
    layers = _layers(path, words, environment, notes, problems)
    merged, conditional = _merge(layers, notes, problems)
    expanded, unset = expand_entries(merged, environment)
    problems += unset
    wrong = {(item.where or "").removeprefix("--") for item in problems}
    config, found, bad = validate(expanded)
    problems += found
    problems += check_rules(config, expanded, str(path) if path else "the command line", wrong | bad)
    told, found = check_conditional(config, conditional, wrong | bad)
    notes += told
    problems += found
    if problems:
        raise UserError.of(sorted(dict.fromkeys(problems), key=_place))
    return LoadedRun(config, {key: entry.where for key, entry in expanded.items()}, tuple(notes))
