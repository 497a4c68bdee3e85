"""The model card: README.md with the Hub's metadata and what was trained, without a word about this machine.

Text in, text out, and no library: the metadata is written as JSON strings, which are YAML.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sft.hub.journal import write_whole
from sft.rundir import RunDirectory

Scalar = str | int | float | bool | None

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_DATA_FILES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".txt", ".zst", ".gz", ".yaml", ".yml")
# Names by which `datasets` loads files rather than a data set of the Hub.
_LOADERS = ("json", "csv", "parquet", "arrow", "text", "webdataset", "imagefolder", "audiofolder")
_LOCAL = re.compile(r"(?:^|[\s\"'(=`])(?:/|~/|\./|\.\./|[A-Za-z]:\\)[\w.-]+")
_LOCAL_FILE = re.compile(r"(?:^|[\s\"'(=`\[])~?/[\w.@-]+/[\w.@-]+", re.MULTILINE)
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|wandb_v1_\w{20,}|gh[pousr]_[A-Za-z0-9]{20,})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card tells. Local paths may be given: they are left out.

    `method` is full, LoRA, QLoRA...; `results` are final metrics; `hyperparameters`, `adapter` (rank,
    alpha...), `launch` (strategy, processes...) and `versions` become tables in the order given.
    """

    title: str
    method: str
    repo: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    is_adapter: bool = False
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    adapter: Mapping[str, Scalar] = field(default_factory=dict)
    launch: Mapping[str, Scalar] = field(default_factory=dict)
    results: Mapping[str, Scalar] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def write_card(run: RunDirectory, facts: CardFacts) -> Path:
    """Write README.md into the output directory, over the draft that PEFT or TRL left there."""
    path = run.output_dir / "README.md"
    write_whole(path, render_card(facts).rstrip("\n"))
    return path


def render_card(facts: CardFacts) -> str:
    """Write the card's text."""
    base = facts.base_model if facts.base_model and is_hub_id(facts.base_model) else None
    datasets = [name for name in facts.datasets if is_hub_id(name, dataset=True)]
    parts = [_metadata(facts, base, datasets), f"# {facts.title}\n", _summary(facts, base, datasets)]
    parts.append(_usage(facts, base))
    tables = (
        ("Results", facts.results),
        ("Adapter", facts.adapter),
        ("Hyperparameters", facts.hyperparameters),
        ("Launch", facts.launch),
        ("Versions", facts.versions),
    )
    parts += [_table(title, rows) for title, rows in tables]
    return "\n".join(part for part in parts if part)


def is_hub_id(name: str, *, dataset: bool = False) -> bool:
    """Whether a name can only be meant as one on the Hub: no path, no file, no directory that is here."""
    if not _HUB_ID.fullmatch(name) or Path(name).exists():
        return False
    return not (dataset and (name in _LOADERS or name.lower().endswith(_DATA_FILES)))


def card_problem(text: str, run: RunDirectory) -> str | None:
    """Say what in a card's text must not leave this machine: a local path, a home directory, a secret."""
    head = text.split("\n---\n", 1)[0] if text.startswith("---\n") else ""
    base = re.search(r"^base_model:\s*(.+?)\s*$", head, re.MULTILINE)
    if base and not is_hub_id(base.group(1).strip("\"'")):
        return "its base_model is a local path"
    here = str(run.output_dir.absolute()) in text or str(Path.home()) + "/" in text
    if here or _LOCAL_FILE.search(text):
        return "it names a local path"
    return "it holds what looks like a token" if _holds_secret(text) else None


def _metadata(facts: CardFacts, base: str | None, datasets: Sequence[str]) -> str:
    tags = ["sft", "trl"]
    if facts.is_adapter:
        tags = ["lora", *tags] + ([f"base_model:adapter:{base}"] if base else [])
    lines = ["---"]
    if base:
        lines.append(f"base_model: {json.dumps(base)}")
    lines.append(f"library_name: {'peft' if facts.is_adapter else 'transformers'}")
    lines.append("pipeline_tag: text-generation")
    if datasets:
        lines += ["datasets:", *(f"- {json.dumps(name)}" for name in datasets)]
    return "\n".join([*lines, "tags:", *(f"- {json.dumps(tag)}" for tag in tags), "---", ""])


def _summary(facts: CardFacts, base: str | None, datasets: Sequence[str]) -> str:
    model = (
        f"[{base}](https://huggingface.co/{base})" if base else "a base model that was not taken from the Hub"
    )
    links = ", ".join(f"[{name}](https://huggingface.co/datasets/{name})" for name in datasets)
    data = links or "data that is not on the Hub"
    return f"Supervised fine-tuning ({facts.method}) of {model} on {data}.\n"


def _usage(facts: CardFacts, base: str | None) -> str:
    if not facts.repo or "/" not in facts.repo:
        return ""
    if facts.is_adapter and not base:
        return ""
    if facts.is_adapter:
        kind = "AutoPeftModelForCausalLM"
        imports = f"from peft import {kind}\nfrom transformers import AutoTokenizer"
    else:
        kind = "AutoModelForCausalLM"
        imports = f"from transformers import {kind}, AutoTokenizer"
    return (
        "## Use\n\n```python\n"
        f"{imports}\n\n"
        f'model = {kind}.from_pretrained("{facts.repo}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{facts.repo}")\n'
        "```\n"
    )


def _table(title: str, rows: Mapping[str, Scalar]) -> str:
    shown = {
        name: _cell(value) for name, value in rows.items() if value is not None and not _is_private(value)
    }
    if not shown:
        return ""
    lines = [f"| {name} | {value} |" for name, value in shown.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines, ""])


def _is_private(value: Scalar) -> bool:
    return isinstance(value, str) and (_LOCAL.search(value) is not None or _holds_secret(value))


def _holds_secret(text: str) -> bool:
    """Whether a text has something in the shape of a token, or a secret of this very environment."""
    known = (os.environ.get(name, "") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"))
    return _TOKEN.search(text) is not None or any(len(secret) >= 8 and secret in text for secret in known)


def _cell(value: Scalar) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
