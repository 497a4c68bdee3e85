"""Run file, site file and flags into one `RunConfig`, with every problem told together.

```
site.yaml (launch: only) ─┐
run.yaml                  ├─▶ today's names ─▶ merged, later wins ─▶ $VARS and ~ ─▶ validated ─▶ RunConfig
--flags                  ─┘
```
Pure but for reading the files and the environment: no torch, no network, no clock.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sft.config.expand import expand_entries
from sft.config.flags import coerce_text, field_of, members, parse_flags
from sft.config.kit import STRATEGY_ALIASES, LaunchConfig, SlurmConfig
from sft.config.names import CONVERTED, RENAMED, RETIRED, Entry, normalize
from sft.config.run import RunConfig, section_of_key
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


def every_key() -> list[str]:
    """List the keys that a run file may hold, `launch.` ones with their prefix."""
    launch = [f"launch.{name}" for name in LaunchConfig.model_fields if name != "slurm"]
    slurm = [f"launch.slurm.{name}" for name in SlurmConfig.model_fields]
    return [*section_of_key(), *launch, *slurm]


def nearest(word: str, names: Sequence[str]) -> str | None:
    """Return the name that was probably meant."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return close[0] if close else None


def _unknown(key: str, entry: Entry) -> Problem:
    known = every_key()
    if key.startswith("launch."):
        close = nearest(
            key.removeprefix("launch."), [name.removeprefix("launch.") for name in known if "." in name]
        )
        close = f"launch.{close}" if close else None
    else:
        close = nearest(key, [*known, *RENAMED, *CONVERTED, *RETIRED])
    fix = f"did you mean {close}?" if close else "`sft schema` lists every key"
    return Problem(f"unknown key {key}", entry.where, fix)


def _type_name(key: str) -> str:
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    kinds = [member for member in members(key) if member is not type(None)]
    told = [names.get(getattr(kind, "__name__", ""), "") or _container(kind) for kind in kinds]
    return " or ".join(dict.fromkeys(told)) or "another type"


def _container(kind: Any) -> str:
    text = str(kind)
    return "a list" if text.startswith("list") else "a mapping" if text.startswith("dict") else text


def _explain(key: str, error: Mapping[str, Any], entry: Entry | None) -> Problem:
    """Put one of pydantic's errors into what, where, fix."""
    where = entry.where if entry else None
    value = entry.value if entry else error.get("input")
    context = error.get("ctx") or {}
    if error["type"] in ("literal_error", "enum"):
        allowed = [
            item.strip().strip("'") for item in str(context["expected"]).replace(" or ", ", ").split(",")
        ]
        close = nearest(str(value), allowed)
        fix = f"did you mean {close}?" if close else f"one of: {', '.join(allowed)}"
        return Problem(f"{key} cannot be {value!r}", where, fix)
    if error["type"].endswith(("_parsing", "_type", "_from_float")):
        return Problem(f"{key} is {_type_name(key)}, not {value!r}", where, None)
    return Problem(f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}, not {value!r}", where, None)


def _validate(entries: dict[str, Entry]) -> RunConfig:
    """Build the tree; pydantic's problems come out under the file's keys."""
    owners = section_of_key()
    tree: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for key, entry in entries.items():
        value = coerce_text(key, entry.value) if isinstance(entry.value, str) else entry.value
        if key in owners:
            tree.setdefault(owners[key], {})[key] = value
        elif key.startswith("launch.slurm.") and field_of(key) is not None:
            tree.setdefault("launch", {}).setdefault("slurm", {})[key.removeprefix("launch.slurm.")] = value
        elif field_of(key) is not None:
            name = key.removeprefix("launch.")
            if name == "strategy" and isinstance(value, str):
                value = STRATEGY_ALIASES.get(value, value)
            tree.setdefault("launch", {})[name] = value
        else:
            problems.append(_unknown(key, entry))
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        told: set[str] = set()
        for item in error.errors(include_url=False):
            location = [part for part in item["loc"] if isinstance(part, str)]
            key = ".".join(location) if location[0] == "launch" else location[1]
            key = next((known for known in (key, key.rsplit(".", 1)[0]) if known in entries), key)
            if key not in told:  # a union reports each of its members
                told.add(key)
                problems.append(_explain(key, item, entries.get(key)))
        raise UserError.of(problems) from None
    if problems:
        raise UserError.of(problems)
    return config


def _rules(config: RunConfig, entries: dict[str, Entry], source: str) -> list[Problem]:
    """Check what one key says about another, as far as no hardware is needed to know it."""
    problems = []

    def where(key: str) -> str:
        return entries[key].where if key in entries else source

    if config.model.model_name_or_path is None:
        problems.append(
            Problem("no model is named", source, "set model_name_or_path: a Hub id or a local directory")
        )
    if config.script.dataset_name is None and not config.mixture.datasets:
        problems.append(
            Problem("no data set is named", source, "set dataset_name: a Hub id or a local file or directory")
        )
    if config.model.load_in_4bit and config.model.load_in_8bit:
        problems.append(
            Problem("load_in_4bit and load_in_8bit are both set", where("load_in_8bit"), "keep one")
        )
    if config.is_quantized and not config.model.use_peft:
        key = "load_in_4bit" if config.model.load_in_4bit else "load_in_8bit"
        problems.append(Problem(f"{key} without an adapter trains nothing", where(key), "set use_peft: true"))
    if config.kit.prepare_model_for_kbit_training and not config.is_quantized:
        problems.append(
            Problem(
                "prepare_model_for_kbit_training has no effect on a base that is not quantised",
                where("prepare_model_for_kbit_training"),
                "remove it, or set load_in_4bit: true",
            )
        )
    if config.training.bf16 and config.training.fp16:
        problems.append(Problem("bf16 and fp16 are both set", where("fp16"), "keep one"))
    if config.kit.merge and not config.model.use_peft:
        problems.append(
            Problem("merge needs an adapter", where("merge"), "set use_peft: true, or remove merge")
        )
    return problems


def _place(problem: Problem) -> tuple[str, int]:
    """Order problems by file and line."""
    name, _, line = (problem.where or "").rpartition(":")
    return (name, int(line)) if line.isdigit() else (problem.where or "", 0)


def load_run(
    path: Path | None,
    words: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
) -> LoadedRun:
    """Read a run file, with the words after it as overrides.

    Args:
        path: the run file; None reads the flags alone.
        words: `--key value` words, which win over the file.
        environment: what `$VARS` and SFT_SITE are taken from; the process's own by default.

    Raises:
        UserError: every problem of the three sources at once, each with its place.
    """
    environment = os.environ if environment is None else environment
    layers: list[dict[str, Entry]] = []
    problems: list[Problem] = []
    if environment.get("SFT_SITE"):
        site = read_entries(Path(environment["SFT_SITE"]))
        layers.append({key: entry for key, entry in site.items() if key.startswith("launch.")})
        problems += [
            Problem(f"a site file holds launch: only, not {key}", entry.where, "move it into the run file")
            for key, entry in site.items()
            if not key.startswith("launch.")
        ]
    if path is not None:
        layers.append(read_entries(path))
    layers.append(parse_flags(list(words)))
    merged: dict[str, Entry] = {}
    notes: list[str] = []
    for layer in layers:
        normalized = normalize(layer)
        merged.update(normalized.entries)
        notes += normalized.notes
        problems += normalized.problems
    expanded, unset = expand_entries(merged, environment)
    problems += unset
    source = str(path) if path else "the command line"
    try:
        config = _validate(expanded)
        problems += _rules(config, expanded, source)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError.of(sorted(problems, key=_place))
    return LoadedRun(config, {key: entry.where for key, entry in expanded.items()}, tuple(notes))
