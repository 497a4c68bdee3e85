"""Read `--learning_rate 2e-4 --packing --push_to_hub false` as entries of a run file."""

from __future__ import annotations

from sft.config.coerce import coerce_word
from sft.config.entry import Entry
from sft.config.fields import is_key, takes
from sft.config.old_names import CONVERTED, RENAMED, Switch, truth
from sft.config.retired import retired
from sft.errors import Problem


def _is_switch(key: str) -> bool:
    """Whether a flag may stand without a value."""
    if key in CONVERTED:
        converter = CONVERTED[key]
        return isinstance(converter, Switch) or key in ("use_reentrant", "split_batches", "dispatch_batches")
    return takes(RENAMED.get(key, key), bool) or (not is_key(key) and retired(key) is not None)


def _is_strict(key: str) -> bool:
    """Whether a flag takes a truth and nothing else."""
    today = RENAMED.get(key, key)
    return takes(today, bool) and not takes(today, str)


def parse_flags(words: list[str]) -> tuple[dict[str, Entry], list[Problem]]:
    """Read the words after the run file; of a flag that is given twice, the last counts.

    A boolean stands alone or with a value, `--no_packing` is `--packing false`, a list takes several words.

    Returns:
        The entries, and a problem for each word that belongs to no flag and each flag that lacks its value.
    """
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("--") or not word.strip("-="):
            problems.append(
                Problem(f"unexpected word {word!r}", fix="a run file comes first, then --key value")
            )
            continue
        key, equals, inline = word[2:].partition("=")
        key = key.replace("-", "_")
        values = [inline] if equals else []
        while not equals and position < len(words) and not words[position].startswith("--"):
            values.append(words[position])
            position += 1
        read = _read(key, values)
        if isinstance(read, Problem):
            problems.append(read)
        else:
            entries[read[0]] = read[1]
    return entries, problems


def _read(key: str, values: list[str]) -> tuple[str, Entry] | Problem:
    """Read one flag with its words."""
    flag = f"--{key}"
    positive = key.removeprefix("no_")
    if key != positive and not _known(key) and _is_switch(positive):
        if values:
            return Problem(f"{flag} takes no value, and has {values[0]!r}", flag, f"--{positive} false")
        return positive, Entry(False, flag)
    today = RENAMED.get(key, key)
    if values and _is_strict(key) and truth(values[0]) is None and not _is_none(today, values[0]):
        return Problem(f"{flag} is true or false, not {values[0]!r}", flag, f"{flag} true")
    if not values and not _is_switch(key):
        if _known(key):
            return Problem(f"{flag} needs a value", flag, f"{flag} VALUE")
        return key, Entry(True, flag)
    if len(values) > 1 and not takes(today, list):
        told = " ".join(values)
        return Problem(
            f"{flag} takes one value, not {len(values)}: {told}", flag, f"put it in quotes: '{told}'"
        )
    if len(values) > 1:
        return key, Entry(values, flag)
    return key, Entry(coerce_word(today, values[0]) if values else True, flag)


def _known(key: str) -> bool:
    return is_key(RENAMED.get(key, key)) or key in CONVERTED or retired(key) is not None


def _is_none(key: str, word: str) -> bool:
    return takes(key, type(None)) and word.lower() in ("none", "null")
