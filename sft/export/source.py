"""Find what is to be merged: the adapter, its base, and what that base was while it was trained.

Reads small files and safetensors headers only; loads no weights and imports no torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.errors import ExitCode, UserError
from sft.rundir import RunDirectory

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How bitsandbytes held the base during training."""

    bits: int
    quant_type: str = "nf4"
    double: bool = False
    load_dtype: str = "auto"

    def __str__(self) -> str:
        if self.bits == 8:
            return "8-bit"
        return f"4-bit {self.quant_type}" + (", double quantised" if self.double else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource:
    """One adapter, found and read as far as that is possible without its weights."""

    adapter: Path
    base: str
    base_told_by: str
    revision: str | None
    quantization: Quantization | None
    trust_remote_code: bool
    tokenizer: Path | None
    shapes: dict[str, tuple[int, ...]]
    forbidden_outputs: tuple[Path, ...]
    notes: list[str] = field(default_factory=list)

    @property
    def base_path(self) -> Path | None:
        """The base's directory, where it is one."""
        path = Path(self.base).expanduser()
        return path if path.is_dir() else None


def find_adapter(
    source: Path,
    *,
    base: str | None = None,
    revision: str | None = None,
    quantization: Quantization | None = None,
    trust_remote_code: bool = False,
) -> AdapterSource:
    """Read a run or adapter directory; `base`, `revision` and `quantization` win over what it says.

    Raises:
        UserError: nothing to merge there, or a file of the adapter or its base is missing or broken.
    """
    notes: list[str] = []
    adapter = _adapter_directory(source, notes)
    config = _adapter_config(adapter)
    shapes = _adapter_shapes(adapter)
    run = next((r for r in (adapter, adapter.parent) if RunDirectory(r).run_yaml.is_file()), None)
    settings = run_settings(run) if run else None
    if quantization is None:
        if settings is not None:
            quantization = _quantization_of(settings)
        else:
            notes.append(
                f"{adapter} does not say how its base was loaded; taken as unquantised "
                "(--load_in_4bit or --load_in_8bit say otherwise)"
            )
    told_by = "--base"
    if base is None:
        base, told_by = config.get("base_model_name_or_path"), f"{adapter / ADAPTER_CONFIG}"
        revision = revision or config.get("revision")
        if settings is not None:
            base = base or settings.get("model_name_or_path")
            revision = revision or settings.get("model_revision")
            trust_remote_code = trust_remote_code or bool(settings.get("trust_remote_code"))
    if not base:
        raise UserError(
            "the adapter does not name its base model", str(adapter / ADAPTER_CONFIG), "name it with --base"
        )
    _require_base(base, told_by)
    places = (adapter, source) if run is None else (adapter, source, run)
    return AdapterSource(
        adapter=adapter,
        base=str(Path(base).expanduser()) if Path(base).expanduser().is_dir() else base,
        base_told_by=told_by,
        revision=revision,
        quantization=quantization,
        trust_remote_code=trust_remote_code,
        tokenizer=next((p for p in places if any((p / name).is_file() for name in TOKENIZER_FILES)), None),
        shapes=shapes,
        forbidden_outputs=tuple(dict.fromkeys(path.resolve() for path in places)),
        notes=notes,
    )


def _adapter_directory(source: Path, notes: list[str]) -> Path:
    if not source.is_dir():
        raise UserError(
            f"there is no directory {source}",
            fix="give the output_dir of a run, or the directory of an adapter",
        )
    checkpoints = complete_checkpoints(source)
    if (source / ADAPTER_CONFIG).is_file() or (source / ADAPTER_WEIGHTS).is_file():
        if checkpoints and _modified(checkpoints[-1]) > _modified(source):
            notes.append(
                f"{checkpoints[-1].name} is newer than the adapter in {source}, which is the one that is merged"
            )
        return source
    if checkpoints:
        notes.append(
            f"{source} has no final adapter; merging {checkpoints[-1].name}, its newest complete checkpoint"
        )
        return checkpoints[-1]
    whole = any(source.glob("model*.safetensors")) or any(source.glob("checkpoint-*/model*.safetensors"))
    if whole:
        raise UserError(
            f"there is nothing to merge: {source} holds a whole model, not an adapter",
            fix="use it as it is; only a run with use_peft: true leaves an adapter",
        )
    raise UserError(
        f"there is no adapter in {source}",
        f"{source / ADAPTER_CONFIG} is missing, and no checkpoint-N there is complete",
        "give the output_dir of a run that saved one, or the directory of an adapter",
    )


def complete_checkpoints(run: Path) -> list[Path]:
    """List a run's checkpoints that hold a whole adapter, oldest first.

    `trainer_state.json` is the last file that rank 0 writes, so a torn checkpoint lacks it.
    """
    found: list[tuple[int, Path]] = []
    for path in run.glob("checkpoint-*"):
        step = re.fullmatch(r"checkpoint-(\d+)", path.name)
        needed = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "trainer_state.json")
        if step and all((path / name).is_file() for name in needed):
            found.append((int(step[1]), path))
    return [path for _, path in sorted(found)]


def _modified(directory: Path) -> float:
    weights = directory / ADAPTER_WEIGHTS
    return weights.stat().st_mtime if weights.is_file() else 0.0


def _adapter_config(adapter: Path) -> dict[str, Any]:
    path = adapter / ADAPTER_CONFIG
    if not path.is_file():
        raise UserError(
            f"{ADAPTER_CONFIG} is missing",
            str(adapter),
            "copy it from where the adapter was trained: the weights alone do not say how to apply them",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{ADAPTER_CONFIG} is not JSON: {error}", str(path)) from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise UserError("this is not the configuration of a PEFT adapter (no peft_type)", str(path))
    return config


def _adapter_shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    path = adapter / ADAPTER_WEIGHTS
    if not path.is_file():
        raise UserError(
            f"{ADAPTER_WEIGHTS} is missing",
            str(adapter),
            "take a checkpoint that is complete, or save the adapter again",
        )
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"the adapter's weights cannot be read: {error}",
            str(path),
            "the file is torn or was not copied whole; take another checkpoint",
        ) from error


def run_settings(run: Path) -> dict[str, Any]:
    """Read the resolved run file of a run directory as plain settings.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = RunDirectory(run).run_yaml
    try:
        settings = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, YAMLError) as error:
        raise UserError(f"the run file cannot be read: {error}", str(path)) from error
    if not isinstance(settings, dict):
        raise UserError("the run file holds no settings", str(path))
    return settings


def _quantization_of(settings: dict[str, Any]) -> Quantization | None:
    # ModelConfig of TRL: dtype is float32 unless the run file says otherwise.
    load_dtype = str(settings.get("dtype") or "float32")
    if settings.get("load_in_4bit"):
        return Quantization(
            bits=4,
            quant_type=str(settings.get("bnb_4bit_quant_type") or "nf4"),
            double=bool(settings.get("use_bnb_nested_quant")),
            load_dtype=load_dtype,
        )
    if settings.get("load_in_8bit"):
        return Quantization(bits=8, load_dtype=load_dtype)
    return None


def _require_base(base: str, told_by: str) -> None:
    path = Path(base).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"the base model {base} has no config.json", told_by, "give the base's directory with --base"
            )
        if (path / ADAPTER_CONFIG).is_file():
            raise UserError(
                f"the base {base} is itself an adapter",
                told_by,
                "merge that one first, and give the merged model with --base",
            )
        return
    if path.is_absolute() or base.startswith((".", "~")) or base.count("/") > 1:
        raise UserError(
            f"the base model {base} is not there",
            told_by,
            "give its directory, or its name on the Hub, with --base",
            exit_code=ExitCode.ENVIRONMENT,
        )
