"""Entries into the typed tree; pydantic's problems come out under the file's own keys and lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sft.config.coerce import coerce_entry
from sft.config.entry import Entry, Place
from sft.config.fields import choices, every_key, is_key, nearest, type_in_words
from sft.config.kit import GROUPS
from sft.config.old_names import CONVERTED, RENAMED
from sft.config.retired import RETIRED
from sft.config.run import RunConfig, section_of_key
from sft.errors import Problem


def validate(entries: Mapping[str, Entry]) -> tuple[RunConfig, list[Problem], set[str]]:
    """Build the tree, of what is right about the entries.

    Returns:
        The tree; what is wrong, unknown keys and values that their keys cannot hold; the keys that are wrong.
    """
    problems = [_unknown(key, entry) for key, entry in entries.items() if not is_key(key)]
    known = {key: entry for key, entry in entries.items() if is_key(key)}
    wrong: set[str] = set()
    while True:
        try:
            return RunConfig.model_validate(_tree(known)), problems, wrong
        except ValidationError as error:
            found = _explain_all(error, known)
            problems += found.values()
            bad = {key for key, _ in found}
            wrong |= bad
            known = {key: entry for key, entry in known.items() if key not in bad}


def _tree(entries: Mapping[str, Entry]) -> dict[str, Any]:
    owners = section_of_key()
    tree: dict[str, Any] = {}
    for key, entry in entries.items():
        value = coerce_entry(key, entry)
        if key in owners:
            tree.setdefault(owners[key], {})[key] = value
        else:
            *groups, name = key.split(".")
            inner = tree
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[name] = value
    return tree


def _explain_all(error: ValidationError, entries: Mapping[str, Entry]) -> dict[tuple[str, Place], Problem]:
    """Explain each place once: a union reports every one of its members."""
    found: dict[tuple[str, Place], Problem] = {}
    for item in error.errors(include_url=False):
        key, inside = _key_of(item["loc"], entries)
        if key not in entries:
            raise AssertionError(f"pydantic blames {item['loc']}, which was not given") from error
        place = (*inside, item["loc"][-1]) if item["type"] in ("missing", "extra_forbidden") else inside
        if (key, place) not in found:
            found[key, place] = _explain(key, inside, item, entries[key])
    return found


def _unknown(key: str, entry: Entry) -> Problem:
    group, dot, name = key.removeprefix("launch.").partition(".")
    name = name if dot and group in GROUPS else key.removeprefix("launch.")
    if key == "launch":
        what, fix = "launch holds keys of its own", "write `launch:` and `nodes: 2` below it, indented"
        return Problem(f"{what}, not {entry.value!r}", entry.where, fix)
    if key == f"launch.{group}" and group in GROUPS:
        members = list(GROUPS[group].model_fields)
        return Problem(
            f"launch.{group} holds {', '.join(members)}, not {entry.value!r}",
            entry.where,
            f"write `{group}: {{{members[0]}: ...}}`",
        )
    for elsewhere in (name, f"launch.{name}", *(f"launch.{other}.{name}" for other in GROUPS)):
        if is_key(elsewhere):
            place = elsewhere.rpartition(".")[0]
            fix = f"write it under {place}:" if place else "write it at the top, not under launch:"
            return Problem(f"unknown key {key}", entry.where, fix)
    if key.startswith("launch."):
        known = [other for other in every_key() if other.startswith("launch.")]
        if dot and group in GROUPS and nearest(name, list(GROUPS[group].model_fields)) is None:
            return Problem(
                f"unknown key {key}", entry.where, f"one of: {', '.join(GROUPS[group].model_fields)}"
            )
        close = nearest(name, [other.rpartition(".")[2] for other in known])
        close = next((other for other in known if close and other.endswith(f".{close}")), None)
    else:
        close = nearest(key, [*every_key(), *RENAMED, *CONVERTED, *RETIRED])
    fix = f"did you mean {close}?" if close else "`sft schema` lists every key"
    return Problem(f"unknown key {key}", entry.where, fix)


def _key_of(location: tuple[str | int, ...], entries: Mapping[str, Entry]) -> tuple[str, Place]:
    """Split pydantic's location into a key and the way into its value; names of union members drop out."""
    depth = 2
    key = str(location[1]) if len(location) > 1 else str(location[0])
    if location[0] == "launch":
        depth = 3 if location[1] in GROUPS and len(location) > 2 else 2
        key = ".".join(str(part) for part in location[:depth])
    lines = entries[key].lines if key in entries else {}
    inside: Place = ()
    for part in location[depth:]:
        if (*inside, part) in lines or isinstance(part, int):
            inside = (*inside, part)
    return key, inside


def _spelled(key: str, inside: Place) -> str:
    return key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inside)


LIMITS = {
    "greater_than": ("must be greater than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
}


def _explain(key: str, inside: Place, error: Mapping[str, Any], entry: Entry) -> Problem:
    """Put one of pydantic's errors into what, where, fix."""
    kind, context = error["type"], error.get("ctx") or {}
    where = entry.lines.get(inside, entry.where)
    spelled = _spelled(key, inside)
    value = error.get("input") if inside else entry.value
    if kind == "extra_forbidden":
        member = str(error["loc"][-1])
        owner = _spelled(key, inside[:-1] if inside[-1:] == (member,) else inside)
        close = nearest(member, _members_of_datasets())
        fix = f"did you mean {close}?" if close else f"one of: {', '.join(_members_of_datasets())}"
        return Problem(f"{owner} has no key {member}", where, fix)
    if kind == "missing":
        return Problem(f"{spelled} lacks {error['loc'][-1]}", where, f"add `{error['loc'][-1]}:`")
    if kind in ("literal_error", "enum") and not inside:
        allowed = choices(key)
        close = nearest(str(value), allowed)
        fix = f"did you mean {close}?" if close else f"one of: {', '.join(allowed)}"
        return Problem(f"{key} cannot be {value!r}", where, fix)
    if kind in LIMITS:
        words, limit = LIMITS[kind]
        return Problem(f"{spelled} {words} {context[limit]}, not {value!r}", where, "give such a number")
    if kind == "finite_number":
        return Problem(f"{spelled} must be a finite number, not {value!r}", where, "give such a number")
    if kind == "string_pattern_mismatch":
        return Problem(f"{spelled} cannot be {value!r}", where, "write HH:MM:SS or D-HH:MM:SS")
    takes = "text" if inside and kind.startswith("string") else type_in_words(key)
    if inside and not kind.startswith("string"):
        return Problem(f"{spelled} cannot be {value!r}", where, f"{key} is {takes}: see `sft schema {key}`")
    return Problem(f"{spelled} is {takes}, not {value!r}", where, f"`sft schema {key}` tells more")


def _members_of_datasets() -> list[str]:
    """Return the keys of one data set of a mixture: the only mapping whose keys are declared."""
    item: Any = RunConfig.model_fields["mixture"].annotation
    declared: Any = item.model_fields["datasets"].annotation
    return list(declared.__args__[0].model_fields)
