"""Answers of the model before and after the training, for the card: to questions as the data asks them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from sft.config.run import RunConfig
from sft.errors import ExitCode, UserError
from sft.launch.command import PACKAGE_ROOT
from sft.quickstart.questions import look_at

SECONDS = 1800.0
"""How long the answers may take."""


def samples(
    config: RunConfig, base: str, tuned: str, place: Path, environment: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """Answer the first questions of the data with both models, in a process of its own: this one has no torch.

    Args:
        base, tuned: directories of whole models.

    Returns:
        Question, answer of the base, answer of the tuned model.

    Raises:
        UserError: the data gives no questions, or the models give no answers.
    """
    if config.script.dataset_name is None and not config.mixture.datasets:
        raise UserError("questions are taken from dataset_name and datasets, and the run has neither")
    questions = [text for text in look_at(config.script, config.mixture).questions if text.strip()]
    if not questions:
        raise UserError("the first rows of the data ask nothing")
    asked, answered = place / "questions.json", place / "answers.json"
    asked.parent.mkdir(parents=True, exist_ok=True)
    asked.write_text(json.dumps(questions), encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
    words = [sys.executable, "-P", "-m", "sft.quickstart.answers", str(asked), str(answered), base, tuned]
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **environment, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"the answers took longer than {SECONDS:.0f} s") from None
    if done.returncode:
        last = next(
            (line for line in reversed(done.stderr.splitlines()) if line.strip()), "it did not say why"
        )
        raise UserError(f"the models gave no answers: {last}", exit_code=ExitCode.ENVIRONMENT)
    found = json.loads(answered.read_text(encoding="utf-8"))
    return list(zip(questions, found[base], found[tuned], strict=True))
