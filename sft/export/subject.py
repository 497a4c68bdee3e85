"""Find what is to be tried: one base, the adapters on it, and how the run held and rendered them.

Reads small files only; loads no weights and imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sft.errors import UserError
from sft.export.source import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    TOKENIZER_FILES,
    AdapterSource,
    Quantization,
    complete_checkpoints,
    find_adapter,
    run_settings,
)
from sft.rundir import RunDirectory

RUN_FILES = (".yaml", ".yml", ".py")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model to load, and adapters to put on it by name.

    Attributes:
        base: a directory or a Hub id: the adapters' base, or a whole model.
        base_told_by: what named it, for messages.
        quantization: how bitsandbytes held it in training.
        dtype, precision: what the run loaded it as, and computed in; None where there is no run.
        tokenizer: where the tokenizer lies that was trained with.
        run: the run that it comes from, if it does.
        step: the step that it was saved at, as far as that is known.
        untrained: the model that a full fine-tuning began with.
        notes: what a person should know.
    """

    base: str
    base_told_by: str
    revision: str | None
    trust_remote_code: bool
    quantization: Quantization | None
    dtype: str | None
    precision: Precision | None
    tokenizer: str
    run: RunDirectory | None = None
    step: int | None = None
    untrained: str | None = None
    adapters: dict[str, AdapterSource] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_subject(
    source: str,
    adapters: Sequence[str] = (),
    *,
    base: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: Quantization | None = None,
) -> Subject:
    """Read a run directory, a run file, a checkpoint, an adapter or a model, and the adapters beside it.

    Args:
        adapters: each PATH or NAME=PATH.
        base: the base of all adapters, where it has moved.

    Raises:
        UserError: nothing to try there, a file is missing or broken, or the adapters do not share a base.
    """
    place = _place(source)
    found: dict[str, AdapterSource] = {}
    notes: list[str] = []

    def add(text: str, given: str | None) -> AdapterSource:
        name, path = _named(text)
        adapter = find_adapter(
            _newest_adapter(path, notes),
            base=given,
            revision=revision,
            quantization=quantization,
            trust_remote_code=trust_remote_code,
        )
        _add(found, name, adapter)
        return adapter

    if place is None or _is_model(place):
        model = str(place) if place is not None else source
        if base is not None:
            raise UserError("--base belongs to an adapter, and this is a whole model", source, "leave it out")
        first, told_by, kept = None, "the command line", place
    else:
        first = add(str(place), base)
        model, told_by, kept = first.base, first.base_told_by, first.adapter
    for text in adapters:
        other = add(text, base if first is not None else model)
        if first is not None and not _same_model(other.base, first.base):
            raise UserError(
                f"{_named(text)[0]} was trained on {other.base}, and the other adapter on {first.base}",
                str(other.adapter / ADAPTER_CONFIG),
                "try them one at a time, or name the base of both with --base",
            )
    one = next(iter(found.values()), None)
    run = _run_of(kept) if kept is not None else None
    if run is None and one is not None:
        run = _run_of(one.adapter)
    settings = run_settings(run.output_dir) if run is not None else {}
    held = quantization or (one.quantization if one is not None else None)
    notes += _unlike(found, held)
    return Subject(
        base=model,
        base_told_by=told_by,
        revision=revision or (one.revision if one is not None else settings.get("model_revision")),
        trust_remote_code=trust_remote_code or bool(settings.get("trust_remote_code")),
        quantization=held,
        dtype=str(settings.get("dtype") or "float32") if run is not None else None,
        precision=_precision(settings) if run is not None else None,
        tokenizer=_tokenizer(model, one),
        run=run,
        step=_step(kept, run) if kept is not None else None,
        untrained=None if one is not None or run is None else str(settings.get("model_name_or_path")),
        adapters=found,
        notes=tuple(dict.fromkeys(notes)),
    )


def rendering(place: Path) -> dict[str, bool]:
    """Say how the run of an adapter or a model rendered its rows, as `turns.load_turns` takes it."""
    run = _run_of(place)
    if run is None:
        return {}
    only = bool(run_settings(run.output_dir).get("assistant_only_loss"))
    return {"assistant_only": only, "is_plain": _is_plain(run)}


def _place(source: str) -> Path | None:
    """Return the directory that a source names; None for a model on the Hub."""
    path = Path(source).expanduser()
    if path.suffix in RUN_FILES:
        from sft.config.loader import load_run

        if not path.is_file():
            raise UserError(f"there is no run file {source}", fix="check the path")
        output = load_run(path).config.run.output_dir
        if not output.is_dir():
            raise UserError(
                f"the run of {source} has left nothing yet: there is no {output}",
                str(path),
                f"train it: sft launch {source}",
            )
        path = output
    if not path.is_dir():
        if path.is_file():
            raise UserError(
                f"{source} is a file",
                fix="name a run file (.yaml or .py), or the directory of a run, adapter or model",
            )
        if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
            raise UserError(
                f"there is no directory {source}",
                fix="give a run, a checkpoint, an adapter's directory or a model",
            )
        return None
    if _is_model(path) or _has_adapter(path) or complete_checkpoints(path):
        return path
    whole = [one for one in _checkpoints(path) if _is_model(one) and (one / "trainer_state.json").is_file()]
    if whole:
        return whole[-1]
    raise UserError(
        f"there is no model and no adapter in {source}",
        f"neither config.json with weights nor {ADAPTER_CONFIG} is there, and no checkpoint-N is complete",
        "give a run that has saved something, the directory of an adapter, or a model",
    )


def _checkpoints(path: Path) -> list[Path]:
    found = [(int(step[1]), one) for one in path.glob("checkpoint-*") if (step := _checkpoint(one))]
    return [one for _, one in sorted(found)]


def _checkpoint(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name)


def _is_model(path: Path) -> bool:
    weights = any(next(path.glob(pattern), None) is not None for pattern in WEIGHTS)
    return weights and (path / "config.json").is_file() and not _has_adapter(path)


def _has_adapter(path: Path) -> bool:
    return (path / ADAPTER_CONFIG).is_file() or (path / ADAPTER_WEIGHTS).is_file()


def _named(text: str) -> tuple[str | None, Path]:
    """Split NAME=PATH. A path that is there counts as one, whatever it is called."""
    name, equals, rest = text.partition("=")
    if equals and name and "/" not in name and not Path(text).expanduser().exists():
        return name, Path(rest).expanduser()
    return None, Path(text).expanduser()


def _newest_adapter(path: Path, notes: list[str]) -> Path:
    """Return a run's own adapter, or where it has none yet that of its newest complete checkpoint."""
    if not path.is_dir():
        raise UserError(
            f"there is no directory {path}", "--adapter", "give a run, a checkpoint or an adapter's directory"
        )
    checkpoints = complete_checkpoints(path)
    if _has_adapter(path) or not checkpoints:
        return path
    notes.append(f"{path} has no final adapter yet: {checkpoints[-1].name} is taken, its newest checkpoint")
    return checkpoints[-1]


def _add(found: dict[str, AdapterSource], name: str | None, adapter: AdapterSource) -> None:
    """Give an adapter a name that no other has."""
    path = adapter.adapter.absolute()
    if name is None:
        name = f"{path.parent.name}/{path.name}" if _checkpoint(path) else path.name
        if name in found or name == "base":
            name = f"{path.parent.name}/{path.name}"
    if name in found or name == "base":
        raise UserError(
            f"two of the models would be called {name}",
            str(path),
            f"name one: --adapter NAME={adapter.adapter}",
        )
    found[name] = adapter


def _same_model(one: str, other: str) -> bool:
    paths = [Path(name).expanduser() for name in (one, other)]
    return one == other or (all(path.is_dir() for path in paths) and paths[0].resolve() == paths[1].resolve())


def _run_of(path: Path) -> RunDirectory | None:
    return next(
        (run for one in (path, path.parent) if (run := RunDirectory(one.absolute())).run_yaml.is_file()), None
    )


def _unlike(found: dict[str, AdapterSource], held: Quantization | None) -> list[str]:
    """Say which adapters were trained on a base that was held otherwise."""
    return [
        f"{name} was trained on a base {f'in {one.quantization}' if one.quantization else 'that was not quantised'}; "
        f"here it is {f'in {held}' if held else 'not quantised'}"
        for name, one in found.items()
        if one.quantization != held and _run_of(one.adapter) is not None
    ]


def _precision(settings: dict[str, Any]) -> Precision:
    if settings.get("fp16"):
        return "fp16"
    return "no" if settings.get("bf16") is False else "bf16"


def _tokenizer(model: str, adapter: AdapterSource | None) -> str:
    if adapter is not None and adapter.tokenizer is not None:
        return str(adapter.tokenizer)
    path = Path(model)
    if path.is_dir() and not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"there is no tokenizer in {model}",
            fix="save it beside the model: tokenizer.save_pretrained(...)",
        )
    return model


def _step(kept: Path, run: RunDirectory | None) -> int | None:
    checkpoint = _checkpoint(kept)
    if checkpoint is not None:
        return int(checkpoint[1])
    if run is None or kept.resolve() not in (run.output_dir.resolve(), run.merged.resolve()):
        return None
    step = _read_json(run.outcome_json).get("step")
    return step if isinstance(step, int) else None


def _is_plain(run: RunDirectory) -> bool:
    """Whether the run's rows were plain text, by what it kept of its data."""
    summary = _read_json(run.data / "summary.json")
    shapes = ((summary.get("splits") or {}).get("train") or {}).get("shapes") or {}
    if not shapes or not set(shapes) <= {"text", "prompt_completion"}:
        return False
    probes = (_read_json(Path(str(summary.get("entry")), "manifest.json")).get("probes") or {}).get("train")
    if not probes:
        return set(shapes) == {"text"}
    return all("messages" not in probe for probe in probes)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a file of the kit's own; empty where it is missing or torn."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
