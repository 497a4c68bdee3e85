"""The data of a run for stock TRL: left where it lies, written as text, or as tokens where text would train otherwise.

Text is preferred. It is written only if TRL trains the same tokens on it: every row is compared (`eject_rows`), what was
written is read back through `datasets`, as TRL reads it, and packing has to come out the same.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.data.block import Split
from sft.data.cache import Entry
from sft.data.prepare import prepare
from sft.data.settings import PrepareSettings, prepare_settings
from sft.data.source import open_splits
from sft.data.unprepared import unprepared_reason
from sft.errors import UserError
from sft.launch.eject_rows import StockRow, UnsayableError, stock_rows

TRL_PACKS = 1000
"""Rows that TRL packs at a time, the batch of `Dataset.map`; the kit packs all of them at once."""
READ_BY_TRL = frozenset(
    (
        "messages", "conversations", "prompt", "completion", "text", "tools", "chat_template_kwargs", "input_ids", "labels",
        "completion_mask", "assistant_masks", "image", "images", "chosen", "rejected", "label",
    )
)  # fmt: skip
"""Columns by which TRL tells what a data set is."""
FILES = {"train": "train", "test": "eval"}
"""The file of each split; `datasets` reads eval.* as the split `test`."""
GLOBS = "*?[]{}"

Form = Literal["streamed", "left", "text", "tokens"]
Rows = Iterator[StockRow]


@dataclass(frozen=True, slots=True)
class EjectedData:
    """Where stock TRL finds the rows.

    Attributes:
        why: the reason for tokens; else empty.
        rows: of each split, "train" and "test".
    """

    form: Form
    why: str = ""
    rows: tuple[tuple[str, int], ...] = ()
    text_field: str | None = None


def refuse_names(directory: Path) -> None:
    """Refuse a place whose name `datasets` would read as a pattern.

    Raises:
        UserError: it holds such characters.
    """
    if any(sign in str(directory) for sign in GLOBS) or "::" in str(directory):
        raise UserError(
            f"{directory} holds a character of {GLOBS} or `::`, and `datasets` would find no files in it",
            "--output",
            "name another directory",
        )


def eject_data(loaded: LoadedRun, directory: Path, say: Callable[[str], None]) -> EjectedData:
    """Write the rows of a run into `directory`, unless stock TRL reads the same rows where they are.

    Raises:
        UserError: the data is refused, as by `sft launch`; or it is streamed from where TRL cannot.
    """
    config = loaded.config
    if unprepared_reason(config) is not None:
        _refuse_streaming(config)
        return EjectedData("streamed")
    entry = prepare(loaded, say)
    for line in entry.lines():
        say(line)
    settings = prepare_settings(config, say)
    roles = list(entry.manifest["splits"])
    counts = tuple((role, entry.summary(role).rows_read - entry.summary(role).dropped) for role in roles)
    try:
        _require_same_packing(config, settings, entry)
        kind = _write_text(loaded, directory, settings, roles)
        if _is_left(config, directory, kind, roles):
            for role in roles:
                (directory / f"{FILES[role]}.jsonl").unlink()
            directory.rmdir()
            return EjectedData("left", rows=counts)
        _read_back(directory, roles)
    except UnsayableError as why:
        _write_tokens(entry, directory, roles)
        return EjectedData("tokens", str(why), tuple((role, entry.summary(role).rows) for role in roles))
    return EjectedData("text", rows=counts, text_field="text" if kind == ("text",) else None)


def data_keys(config: RunConfig, data: EjectedData, directory: Path) -> dict[str, Any]:
    """Return what the TRL file says of the data, and of what the rows hold already; None takes a key out."""
    if data.form in ("streamed", "left"):
        return {}
    keys: dict[str, Any] = dict.fromkeys(
        (
            "dataset_config",
            "dataset_train_split",
            "dataset_test_split",
            "datasets",
            "streaming",
            "test_split_size",
        )
    )
    keys["dataset_name"] = str(directory)
    keys["dataset_text_field"] = data.text_field
    if data.form == "tokens":
        more = config.training.dataset_kwargs
        keys["dataset_kwargs"] = {**(more if isinstance(more, dict) else {}), "skip_prepare_dataset": True}
        keys |= dict.fromkeys(("assistant_only_loss", "completion_only_loss", "shuffle_dataset"))
    return keys


def _refuse_streaming(config: RunConfig) -> None:
    for key in ("formatting_func", "dataset_mapping", "validation_fraction"):
        if getattr(config.kit, key) is not None:
            raise UserError(
                f"{key} cannot be used on rows that are streamed", key, "remove dataset_streaming"
            )
    path = Path(config.script.dataset_name or "")
    saved = [name for name in ("state.json", "dataset_dict.json") if (path / name).is_file()]
    if not config.mixture.datasets and (path.is_file() or saved):
        raise UserError(
            f"TRL's script cannot stream {path}: it reads a data set by its name or directory, not "
            + ("what save_to_disk wrote" if saved else "a file"),
            "dataset_name",
            "remove dataset_streaming: eject writes the rows then; or put the file into a directory of its own",
        )


def _require_same_packing(config: RunConfig, settings: PrepareSettings, entry: Entry) -> None:
    """Text is packed by TRL: see that it would lay the same samples into the same rows."""
    training = config.training
    for role in entry.manifest["splits"]:
        strategy, summary = settings.strategy(role), entry.summary(role)
        if strategy is None:
            continue
        if summary.rows_read - summary.dropped > TRL_PACKS:
            raise UnsayableError(
                f"TRL packs {TRL_PACKS} rows at a time, the kit all of them, which leaves less room empty"
            )
        if training.dataset_num_proc not in (None, 1):
            raise UnsayableError("TRL packs what each process of dataset_num_proc holds by itself")
        if training.shuffle_dataset:
            raise UnsayableError("with shuffle_dataset TRL shuffles packed rows a second time")
        if settings.row_seed is not None:
            raise UnsayableError(
                "train_sampling_strategy: sequential would train TRL's packed rows longest first"
            )
        if strategy == "bfd" and training.truncation_mode == "keep_end" and summary.truncated:
            raise UnsayableError(
                "packing bfd keeps the start of long rows in TRL, whatever truncation_mode says"
            )


def _write_text(
    loaded: LoadedRun, directory: Path, settings: PrepareSettings, roles: list[str]
) -> tuple[str, ...]:
    """Write one line of JSON a row; return the columns that hold what is trained."""
    config = loaded.config
    splits = open_splits(
        config.script,
        config.mixture,
        evaluates="test" in roles,
        validation_fraction=config.kit.validation_fraction,
        dataset_mixture=config.kit.dataset_mixture,
    )
    directory.mkdir(parents=True, exist_ok=True)
    kinds: dict[tuple[str, ...], None] = {}
    for role, split in zip(roles, splits, strict=False):
        assert split is not None
        _write_split(directory / f"{FILES[role]}.jsonl", stock_rows(split, role, settings), split, kinds)
    if len(kinds) > 1:
        raise UnsayableError(
            f"rows of several shapes ({', '.join('+'.join(kind) for kind in kinds)}) stand in one data set"
        )
    return next(iter(kinds))


def _write_split(path: Path, rows: Rows, split: Split, kinds: dict[tuple[str, ...], None]) -> None:
    ends = [0]
    with path.open("wb") as file:
        for row in rows:
            kinds.setdefault(row.kind)
            try:
                line = json.dumps(row.row, ensure_ascii=False).encode() + b"\n"
            except UnicodeEncodeError:
                raise UnsayableError("a row holds half of a surrogate pair, which is no text") from None
            ends.append(ends[-1] + file.write(line))
    if split.order_seed is None:
        return
    # A mixture's own order: that of Dataset.shuffle.
    order = np.random.default_rng(split.order_seed).permutation(len(ends) - 1)
    aside = path.with_suffix(".ordered")
    with path.open("rb") as source, aside.open("wb") as file:
        for place in order:
            source.seek(ends[place])
            file.write(source.read(ends[place + 1] - ends[place]))
    aside.replace(path)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _is_left(config: RunConfig, directory: Path, kind: tuple[str, ...], roles: list[str]) -> bool:
    """Whether TRL finds the very same rows where the run file has them."""
    script, kit = config.script, config.kit
    converts = (kit.dataset_mapping, kit.formatting_func, kit.validation_fraction, kit.dataset_mixture)
    if any(value is not None for value in converts) or config.mixture.datasets or script.dataset_name is None:
        return False
    if Path(script.dataset_name).is_file():
        return False
    names = {"train": script.dataset_train_split, "test": script.dataset_test_split}
    found = _loaded(script.dataset_name, script.dataset_config)
    if found is None or any(names[role] not in found for role in roles):
        return False
    field = config.training.dataset_text_field if kind == ("text",) else None
    for role in roles:
        rows = found[names[role]]
        columns = {field} if field else set(kind)
        other = (READ_BY_TRL | {config.training.dataset_text_field}) - columns
        if not columns <= set(rows.column_names) or other & set(rows.column_names):
            return False
        ours = _lines(directory / f"{FILES[role]}.jsonl")
        if not _same(ours, ({name: row[field or name] for name in kind} for row in rows)):
            return False
    return True


def _read_back(directory: Path, roles: list[str]) -> None:
    """Read what was written as TRL will: `datasets` guesses types, and makes dates of text that looks like them."""
    with tempfile.TemporaryDirectory(prefix="sft-eject-") as cache:
        found = _loaded(str(directory), None, cache)
        if found is None or sorted(found) != sorted(roles):
            raise UnsayableError("`datasets` does not read the rows as lines of JSON")
        for role in roles:
            written = (_without_null(row) for row in found[role])
            if not _same(_lines(directory / f"{FILES[role]}.jsonl"), written):
                raise UnsayableError("`datasets` takes text of the rows for something else, such as dates")


def _without_null(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not (name == "tools" and value is None)}


def _same(ours: Iterable[Any], theirs: Iterable[Any]) -> bool:
    end = object()
    left, right = iter(ours), iter(theirs)
    while True:
        one, other = next(left, end), next(right, end)
        if one is end or other is end:
            return one is other
        if one != other:
            return False


def _loaded(name: str, configuration: str | None, cache: str | None = None) -> Any | None:
    """Load a data set as TRL's script does; None where that fails."""
    import datasets
    from datasets.exceptions import DatasetsError

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, name=configuration, cache_dir=cache)
    except (DatasetsError, OSError, ValueError, RuntimeError):
        return None
    finally:
        datasets.enable_progress_bars()


def _write_tokens(entry: Entry, directory: Path, roles: list[str]) -> None:
    """Write the rows that the trainer is given, laid out and packed: ids, labels, and the samples' lengths."""
    directory.mkdir(parents=True, exist_ok=True)
    for role in roles:
        (directory / f"{FILES[role]}.jsonl").unlink(missing_ok=True)
        rows = entry.dataset(role)
        columns = [
            name for name in ("input_ids", "labels", "seq_lengths", "length") if name in rows.column_names
        ]
        rows.select_columns(columns).to_parquet(str(directory / f"{FILES[role]}.parquet"))
    with tempfile.TemporaryDirectory(prefix="sft-eject-") as cache:
        found = _loaded(str(directory), None, cache)
        if found is None or {role: len(found[role]) for role in found} != {
            role: entry.summary(role).rows for role in roles
        }:
            raise UserError(
                f"`datasets` does not find the rows that were written to {directory}",
                "--output",
                "name a directory without characters that mean something in a pattern",
            )
