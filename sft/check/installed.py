"""What the installed libraries know: model types, architectures, LoRA's targets. Their source is read, and not imported."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

TARGETS = "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING"


def version(package: str) -> str:
    """Return the version of a package; "0 (absent)" without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "0 (absent)"


@cache
def model_types() -> frozenset[str]:
    """Name every `model_type` that transformers has a configuration for; empty where its source is not as expected.

    Source:
        transformers/models/auto/auto_mappings.py and configuration_auto.py, CONFIG_MAPPING_NAMES.
    """
    text = _read("transformers", "models/auto/auto_mappings.py")
    text += _read("transformers", "models/auto/configuration_auto.py")
    return frozenset(re.findall(r'"([\w.-]+)"(?:,|:) "\w+Config"', text))


@cache
def causal_models() -> Mapping[str, str]:
    """Return the causal language model of each `model_type`; empty where the source is not as expected.

    Source:
        transformers/models/auto/modeling_auto.py, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.
    """
    text = _read("transformers", "models/auto/modeling_auto.py")
    _, _, rest = text.partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict(")
    return dict(re.findall(r'\("([\w.-]+)", "(\w+)"\)', rest.partition("\n)")[0]))


@cache
def has_architecture(name: str) -> bool:
    """Whether transformers has a class of this name; True where that cannot be told."""
    text = _read("transformers", "models/auto/modeling_auto.py")
    if not text or f'"{name}"' in text:
        return True
    declared = f"class {name}("
    place = _package("transformers")
    assert place is not None
    return any(
        declared in path.read_text(encoding="utf-8", errors="replace")
        for path in place.glob("models/*/modeling_*.py")
    )


@cache
def lora_targets() -> Mapping[str, str | list[str]] | None:
    """Return the modules that PEFT adapts where none are named, by `model_type`; None where that cannot be told."""
    try:
        tree = ast.parse(_read("peft", "utils/constants.py"))
    except SyntaxError:
        return None
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == TARGETS for target in node.targets
        ):
            try:
                return dict(ast.literal_eval(node.value))
            except ValueError:
                return None
    return None


def _read(package: str, path: str) -> str:
    place = _package(package)
    try:
        return "" if place is None else (place / path).read_text(encoding="utf-8")
    except OSError:
        return ""


@cache
def _package(name: str) -> Path | None:
    """Return the directory of a package, which is not imported to find it."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
