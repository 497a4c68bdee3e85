"""Expand `$VARS` and `~`, once, in paths and in `env:`. An unset variable is an error, `$$` is a dollar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sft.config.entry import Entry
from sft.errors import Problem

PATH_KEYS = frozenset(
    (
        "model_name_or_path",
        "dataset_name",
        "datasets",
        "dataset_mixture",
        "output_dir",
        "chat_template_path",
        "data_cache",
        "resume_from_checkpoint",
        "callbacks",
        "formatting_func",
        "compute_metrics",
        "eval_metrics",
        "env",
        "launch.accelerate_config",
    )
)
VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))", re.ASCII)


def _expand(value: Any, environment: Mapping[str, str], unset: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, environment, unset) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, environment, unset) for item in value]
    if not isinstance(value, str):
        return value

    def look_up(name: str, written: str) -> str:
        if name not in environment:
            unset.add(name)
        return environment.get(name, written)

    value = VARIABLE.sub(lambda found: "$" if found[1] else look_up(found[2] or found[3], found[0]), value)
    # After the variables, so that a variable that was exported as '~/data' leads somewhere too.
    if value == "~" or value.startswith("~/"):
        value = look_up("HOME", "~") + value[1:]
    return value


def escape(value: Any) -> Any:
    """Write a value that was expanded so that expanding it again changes nothing."""
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


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
        expanded[key] = replace(
            entry,
            value=_expand(entry.value, environment, unset),
            text=_expand(entry.text, environment, unset),
        )
        problems += [
            Problem(
                f"{key} uses ${name}, which is not set",
                entry.where,
                f"export {name}=..., or write the value out",
            )
            for name in sorted(unset)
        ]
    return expanded, problems
