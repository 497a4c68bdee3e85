"""What is named as a path is there; names on the Hub are left to the network."""

from __future__ import annotations

import os
from collections.abc import Iterator

from sft.check.finding import Finding, error
from sft.check.needs import LIKE_REPOSITORY, REPOSITORY
from sft.check.subject import Subject
from sft.plan.reach import is_there

NAME = "paths"
COST = "two looks at the file system"
NEEDS = "nothing"


def look(subject: Subject) -> Iterator[Finding]:
    """Look for the model and the data set."""
    config = subject.config
    model = config.model.model_name_or_path or ""
    is_adapter = os.path.isfile(os.path.join(model, "adapter_config.json"))  # which is told by its name
    if _is_path(model) and not is_adapter and not is_there(os.path.join(model, "config.json")):
        what = "has no config.json" if os.path.isdir(model) else "is not there"
        fix = "name a directory that save_pretrained wrote, or a model on the Hub"
        yield error(f"the model {model} {what}", subject.where("model_name_or_path"), fix)
    data = config.script.dataset_name or ""
    if not config.mixture.datasets and _is_path(data) and not is_there(data):
        yield error(f"the data set {data} is not there", subject.where("dataset_name"), "check the path")
    for what, key, name in (("model", "model_name_or_path", model), ("data set", "dataset_name", data)):
        if LIKE_REPOSITORY.fullmatch(name) and not REPOSITORY.fullmatch(name) and not is_there(name):
            yield error(
                f"the {what} {name} is not there, and no name that the Hub takes either",
                subject.where(key),
                "check the name: at most 96 letters, digits, -, _ and ., not two of - or . in a row",
            )


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../"))
