"""What was worked out before of files that have not changed since, by their sizes, times and inodes.

```
<cache>/answers/<digest of the question>.json
```
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sft import __version__
from sft.check.finding import Finding
from sft.check.needs import data_needs
from sft.config.code import with_neighbours
from sft.config.run import RunConfig
from sft.data.cache import default_cache
from sft.errors import Problem
from sft.files import write_whole
from sft.plan import memory
from sft.plan.memory.job import Job
from sft.plan.memory.step import Held, Hold, held_by
from sft.plan.shape import Shape

TEMPLATES = "additional_chat_templates"
"""The directory of a model's further chat templates."""
NOT_DATA = ("launch", "output_dir", "report_to", "run_name", "env")


class Answers:
    """Answers by question, in one directory. Where it cannot be written, every question is asked again."""

    def __init__(self, config: RunConfig) -> None:
        cache = config.kit.data_cache
        self.directory = (Path(cache) if cache else default_cache()) / "answers"

    def find(self, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what was answered; None where nothing was, or nothing that can be read."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return dict(json.loads(self._place(question).read_text(encoding="utf-8"))["answer"])
        return None

    def keep(self, question: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Remember an answer."""
        with suppress(OSError):
            write_whole(self._place(question), json.dumps({"answer": answer}))

    def _place(self, question: Mapping[str, Any]) -> Path:
        text = json.dumps([__version__, question], sort_keys=True, default=str)
        return self.directory / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def states_of(paths: Iterable[Path]) -> list[tuple[str, int, int, int, int]]:
    """Return what tells a file from a changed one: size, times and inode; of a directory, those of the files below it.

    The time of the last change of status cannot be set back by a program.

    Raises:
        OSError: a file has gone.
    """
    found = []
    for path in paths:
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        for file in files:
            state = os.stat(file)
            found.append((str(file), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))
    return found


def held_from_memory(config: RunConfig) -> Hold:
    """Return what works out what a rank holds, and remembers it: each arrangement takes 0.2 s of a large model."""
    answers = Answers(config)
    code = states_of([Path(memory.__path__[0])])

    def hold(shape: Shape, job: Job) -> Held:
        # A shape's own words leave its tensors out, which are long.
        question = {"what": "held", "code": code, "of": repr((shape, shape.tensors, job))}
        known = answers.find(question)
        if known is not None:
            return Held(**known)
        held = held_by(shape, job)
        answers.keep(question, dataclasses.asdict(held))
        return held

    return hold


def data_question(config: RunConfig) -> dict[str, Any]:
    """Return what the first rows depend on; of a function of the user's own its file, and what that imports from beside it.

    Raises:
        OSError: a file has gone.
    """
    model, kit = Path(str(config.model.model_name_or_path)), config.kit
    data = [wanted.path for wanted in data_needs(config)]
    functions = [name for name in (kit.formatting_func, kit.dataset_mapping) if isinstance(name, str)]
    paths = list(map(Path, filter(None, [*data, config.training.chat_template_path])))
    sources = [Path(name.rpartition(":")[0]) for name in functions]
    code = [part for source in sources if source.is_file() for part in with_neighbours(source)]
    # Its tokenizer, whatever that is made of; weights are only looked at from outside, as all the rest.
    own = [*sorted(model.iterdir()), model / TEMPLATES] if model.is_dir() else []
    beside = [file for file in own if file.is_file() or file.name == TEMPLATES]
    return {
        "settings": {key: value for key, value in config.settings().items() if key not in NOT_DATA},
        "directory": str(Path.cwd()),
        "files": states_of([*(path for path in paths if path.exists()), *code, *beside]),
    }


def remembered(
    config: RunConfig, question: Mapping[str, Any], look: Callable[[], Iterable[Finding]]
) -> list[Finding]:
    """Return what a check finds, from memory where it was asked before and refused nothing."""
    answers = Answers(config)
    known = answers.find(question)
    if known is not None:
        return [Finding(gravity=gravity, problem=Problem(*told)) for gravity, told in known["findings"]]
    found = list(look())
    if all(finding.gravity != "error" for finding in found):
        told = [(finding.gravity, dataclasses.astuple(finding.problem)) for finding in found]
        answers.keep(question, {"findings": told})
    return found
