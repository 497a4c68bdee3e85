"""What is named as a path is there; names on the Hub are left to the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sft.check.finding import Finding, error
from sft.check.subject import Subject

NAME = "paths"
COST = "two looks at the file system"
NEEDS = "nothing"


def look(subject: Subject) -> Iterator[Finding]:
    """Look for the model and the data set."""
    config = subject.config
    model = config.model.model_name_or_path or ""
    is_adapter = (Path(model) / "adapter_config.json").is_file()  # which is told by its name
    if _is_path(model) and not is_adapter and not (Path(model) / "config.json").is_file():
        what = "has no config.json" if Path(model).is_dir() else "is not there"
        fix = "name a directory that save_pretrained wrote, or a model on the Hub"
        yield error(f"the model {model} {what}", subject.where("model_name_or_path"), fix)
    data = config.script.dataset_name or ""
    if not config.mixture.datasets and _is_path(data) and not Path(data).exists():
        yield error(f"the data set {data} is not there", subject.where("dataset_name"), "check the path")


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../"))
