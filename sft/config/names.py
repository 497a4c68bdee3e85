"""Read one layer of settings (the site's file, the run file, the flags) under today's names.

Each use of a renamed, converted or retired name is told in one line; a value that cannot take effect is a
problem. The tables are in `old_names` and `retired`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sft.config.entry import Entry
from sft.config.old_names import CONVERTED, RENAMED, RENAMED_VALUES, SILENT, Switch, truth
from sft.config.retired import STILL_FIELDS, retired
from sft.errors import Problem

STORAGE = "bnb_4bit_quant_storage_dtype"
CONDITIONAL = ("mixed_precision", "bnb_4bit_compute_dtype", STORAGE)
"""Names whose meaning depends on the rest of the run: see `settle_storage` and `rules`."""
ROWS, ROWS_AUTO = "per_device_train_batch_size", "micro_batch"
ANYTHING: Any = object()
"""As a value that is undone: whatever it is."""
MODULE_KEYS = ("lora_target_modules", "lora_modules_to_save", "lora_target_parameters")
MODULE_LIST = re.compile(r"\s*[\w.-]+(\s*,\s*[\w.-]+)+\s*")


@dataclass(slots=True)
class Normalized:
    """A layer under today's names, with what is to be said about it.

    `undone` holds what a switch that was turned off takes back from the layers below;
    `conditional` the names of CONDITIONAL.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    undone: dict[str, Any] = field(default_factory=dict)
    conditional: dict[str, Entry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def _module_names(value: Any) -> Any:
    """Split `q_proj,k_proj` (PEFT's examples); a regex or `all-linear` stays as it is."""
    if isinstance(value, str) and MODULE_LIST.fullmatch(value):
        return [name.strip() for name in value.split(",")]
    return value


def _same(first: Any, second: Any) -> bool:
    """Whether two values are one, as a word of the command line or in the file."""
    return first == second or str(first).lower() == str(second).lower()


def _warmup(layer: dict[str, Entry]) -> dict[str, Entry]:
    """Drop whichever of warmup_steps and warmup_ratio transformers 4 ignored: steps above 0 won."""
    if not {"warmup_steps", "warmup_ratio"} <= layer.keys():
        return layer
    try:
        loser = "warmup_ratio" if float(layer["warmup_steps"].value) > 0 else "warmup_steps"
    except (TypeError, ValueError):
        return layer
    return {key: entry for key, entry in layer.items() if key != loser}


def _today(key: str, known: Callable[[str], bool]) -> str | None:
    """Return a renamed key's name of today; `launch: {num_machines: 2}` is read too."""
    if key in RENAMED:
        return RENAMED[key]
    new = RENAMED.get(key.removeprefix("launch."), "")
    inside = key.startswith("launch.") and not known(key) and new.startswith("launch.")
    return new if inside else None


def settle_storage(merged: dict[str, Entry], entry: Entry) -> str:
    """Read PEFT's storage dtype, once the layers are merged, and say how.

    PEFT's example loads the rest of a 4-bit model in a floating storage dtype too (FSDP needs just that),
    and ignores the setting for a model that is not in 4 bits.
    """
    name = str(entry.value)
    if not ("load_in_4bit" in merged and truth(merged["load_in_4bit"].value)):
        return f"{STORAGE} has no effect: nothing is in 4 bits ({entry.where})"
    read = {"bnb_4bit_quant_storage": name}
    if "dtype" not in merged and name in ("bfloat16", "float16", "float32"):
        read["dtype"] = name
    for key, value in read.items():
        merged.setdefault(key, Entry(value, entry.where))
    told = ", ".join(f"{key}: {value}" for key, value in read.items())
    return f"{STORAGE}: {name} is read as {told} ({entry.where})"


def normalize(layer: dict[str, Entry], known: Callable[[str], bool] = lambda key: False) -> Normalized:
    """Read one layer under today's names.

    Args:
        known: whether a name is a key of today.
    """
    result = Normalized()
    layer = _warmup(layer)

    def put(key: str, entry: Entry, given: str) -> None:
        present = result.entries.get(key) or (layer.get(key) if key != given else None)
        if present is not None and isinstance(present.value, dict) and isinstance(entry.value, dict):
            entry = Entry({**entry.value, **present.value}, entry.where)
        elif present is not None and not _same(present.value, entry.value):
            result.problems.append(
                Problem(
                    f"{given} and {key} are the same setting with two values, {entry.value} and {present.value}",
                    entry.where,
                    f"keep {key}",
                )
            )
            return
        renamed = RENAMED_VALUES.get((key, str(entry.value)))
        if renamed is not None:
            if not key.startswith("launch."):
                result.notes.append(f"{key}: {entry.value} is read as {renamed} ({entry.where})")
            entry = Entry(renamed, entry.where)
        if key in MODULE_KEYS:
            names = _module_names(entry.value)
            entry = entry if names is entry.value else Entry(names, entry.where)
        result.entries[key] = entry

    for key, entry in layer.items():
        if key == ROWS and entry.value == "auto":
            put(ROWS_AUTO, entry, key)
            result.undone[ROWS] = ANYTHING
            continue
        if key == ROWS:
            result.undone[ROWS_AUTO] = ANYTHING
        gone = retired(key)
        new = _today(key, known)
        if new is not None:
            put(new, entry, key)
            if key in RENAMED and key not in SILENT:
                result.notes.append(f"{key} is read as {new} ({entry.where})")
        elif key in CONVERTED:
            _convert(key, entry, result, put)
        elif key in CONDITIONAL:
            result.conditional[key] = entry
        elif gone is not None and (key in STILL_FIELDS or not known(key)):
            told = "" if gone.secret else f": {entry.value}"
            if entry.value is None or str(entry.value).strip().lower() in gone.anyway:
                result.notes.append(f"{key} is not needed any more: {gone.why} ({entry.where})")
            else:
                result.problems.append(
                    Problem(f"{key}{told} cannot take effect: {gone.why}", entry.where, gone.fix)
                )
        else:
            put(key, entry, key)
    return result


def _convert(key: str, entry: Entry, result: Normalized, put: Callable[[str, Entry, str], None]) -> None:
    converter = CONVERTED[key]
    try:
        converted = converter(entry.value)
    except ValueError as error:
        result.problems.append(Problem(f"{key} cannot be {entry.value!r}", entry.where, str(error)))
        return
    for new, value in converted.items():
        put(new, Entry(value, entry.where), key)
    if not converted and isinstance(converter, Switch):
        result.undone[converter.key] = converter.value
    told = ", ".join(f"{new}: {value}" for new, value in converted.items()) or "the default"
    result.notes.append(f"{key}: {entry.value} is read as {told} ({entry.where})")
