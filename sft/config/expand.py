"""Expand `$VARS` and `~`, once, in paths and in `env:`. An unset variable is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sft.config.names import Entry
from sft.errors import Problem

PATH_KEYS = frozenset(
    (
        "model_name_or_path",
        "dataset_name",
        "datasets",
        "output_dir",
        "chat_template_path",
        "resume_from_checkpoint",
        "callbacks",
        "formatting_func",
        "compute_metrics",
        "env",
        "launch.accelerate_config",
    )
)
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def _expand(value: Any, environment: Mapping[str, str], unset: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, environment, unset) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, environment, unset) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in environment:
            unset.add(name)
            return match[0]
        return environment[name]

    value = VARIABLE.sub(replace, value)
    if value == "~" or value.startswith("~/"):
        home = environment.get("HOME")
        if home is None:
            unset.add("HOME")
        else:
            value = home + value[1:]
    return value


def expand_entries(
    entries: dict[str, Entry], environment: Mapping[str, str]
) -> tuple[dict[str, Entry], list[Problem]]:
    """Return the entries with paths and `env:` expanded, and a problem for each unset variable."""
    expanded: dict[str, Entry] = {}
    problems: list[Problem] = []
    for key, entry in entries.items():
        if key not in PATH_KEYS:
            expanded[key] = entry
            continue
        unset: set[str] = set()
        expanded[key] = Entry(_expand(entry.value, environment, unset), entry.where)
        problems += [
            Problem(
                f"{key} uses ${name}, which is not set",
                entry.where,
                f"export {name}=..., or write the path out",
            )
            for name in sorted(unset)
        ]
    return expanded, problems
