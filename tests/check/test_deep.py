"""`sft check --deep` makes the run's own steps, and tells by the name of the phase what only they show."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from sft.errors import ExitCode
from tests.check.made import write_run
from tests.training.launching import SFT

LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear", "learning_rate": 1e-2}
EVALUATES = {"eval_strategy": "epoch", "validation_fraction": 0.1}


@dataclass(frozen=True)
class Checked:
    """One `sft check --deep` that has ended."""

    code: int
    stderr: str
    findings: list[dict[str, str]]

    def of(self, gravity: str) -> list[str]:
        """What the rehearsal says in one gravity."""
        return [
            finding["what"]
            for finding in self.findings
            if finding["check"] == "deep" and finding["gravity"] == gravity
        ]


@dataclass(frozen=True)
class Place:
    """A run's parts, and a scratch directory that must be empty again after each check."""

    directory: Path
    settings: dict[str, Any]

    @property
    def scratch(self) -> Path:
        return self.directory / "scratch"

    def command(self, **more: Any) -> tuple[list[str], dict[str, str]]:
        self.scratch.mkdir(exist_ok=True)
        run_file = write_run(self.directory, **{**self.settings, **more})
        return [*SFT, "check", str(run_file), "--deep", "--json"], {
            **os.environ,
            "TMPDIR": str(self.scratch),
            "HF_TOKEN": "hf_nobody",
        }

    def check(self, **more: Any) -> Checked:
        command, environment = self.command(**more)
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert list(self.scratch.glob("sft-deep-*")) == []
        assert not (self.directory / "out").exists()
        findings = json.loads(done.stdout)["findings"] if done.stdout else []
        return Checked(done.returncode, done.stderr, findings)


@pytest.fixture
def place(tiny_model: Path, tiny_chats: Path, tmp_path: Path) -> Place:
    return Place(
        tmp_path,
        {
            "model_name_or_path": str(tiny_model),
            "dataset_name": str(tiny_chats),
            "assistant_only_loss": True,
            "bf16": False,
            "max_length": 128,
            "per_device_train_batch_size": 4,
            "total_train_batch_size": 32,
            "num_train_epochs": 3,
            "learning_rate": 1e-3,
            "data_cache": str(tmp_path / "cache"),
            "launch": {"device": "cpu"},
        },
    )


def test_a_good_run_is_rehearsed_to_its_push(place: Place) -> None:
    more = {"merge": True, "push_to_hub": True, "hub_model_id": "team/chat", "packing": True}
    checked = place.check(**LORA, **EVALUATES, **more)
    assert checked.code == 0, checked.stderr
    assert checked.of("error") + checked.of("warning") == []
    trained, changed, resumed, merged, pushed = checked.of("note")
    assert trained.startswith(
        "rehearsed on the CPU: 1 of 2 layers (0), 1 process, rows of at most 128 tokens; load "
    )
    assert [name for name in ("train", "evaluate", "save", "export") if f" {name} " not in trained] == []
    assert (
        changed == "rehearsed otherwise than the run file has it: 1 x 2 rows a process and step, not 1 x 32"
    )
    assert resumed.endswith("step 2 has the same loss and leaves the same weights, bit by bit")
    assert merged.startswith("rehearsed merge, ")
    assert pushed.startswith("rehearsed push of the model of step 2 to team/chat, to nowhere: 6 files, ")
    assert pushed.endswith(
        "README.md, adapter_config.json, adapter_model.safetensors, chat_template.jinja, tokenizer.json,"
        " tokenizer_config.json"
    )


METRICS = """
def score(prediction):
    return {"kept": 1 / len([row for row in prediction.label_ids if len(row) == 0])}
"""
ON_SAVE = """
from transformers import TrainerCallback
class Copy(TrainerCallback):
    def on_save(self, args, state, control, **_):
        open(f"{args.output_dir}/checkpoint-{state.global_step}/pytorch_model.bin")
"""
AT_STEP_2 = """
from transformers import TrainerCallback
class Grow(TrainerCallback):
    def on_train_begin(self, args, state, control, **_):
        self.seen = {0: "begin"}[state.global_step]
"""


NEEDS = """
from transformers import TrainerCallback
class Copy(TrainerCallback):
    def __init__(self, target):
        self.target = target
"""


def with_metrics(place: Place) -> dict[str, Any]:
    (place.directory / "metrics.py").write_text(METRICS)
    return {**LORA, **EVALUATES, "compute_metrics": f"{place.directory}/metrics.py:score"}


def with_metric_that_is_not_there(place: Place) -> dict[str, Any]:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "f1", "save_strategy": "epoch"}
    return {**LORA, **EVALUATES, **best}


def with_callback(text: str, name: str) -> Any:
    def build(place: Place) -> dict[str, Any]:
        (place.directory / "own.py").write_text(text)
        return {**LORA, "callbacks": [f"{place.directory}/own.py:{name}"]}

    return build


def with_generation_settings_that_cannot_be_saved(place: Place) -> dict[str, Any]:
    """Sampling settings without sampling: transformers warns of them at load, and refuses to write them."""
    model = place.directory / "model"
    shutil.copytree(place.settings["model_name_or_path"], model)
    path = model / "generation_config.json"
    changed = json.loads(path.read_text()) | {"temperature": 0.6, "do_sample": False, "eos_token_id": 7}
    path.write_text(json.dumps(changed))
    return {"model_name_or_path": str(model)}


def with_loss_that_is_no_number(place: Place) -> dict[str, Any]:
    return {"learning_rate": 1e38, "max_grad_norm": 0.0, "optim": "sgd"}


FAULTS: list[Any] = [
    pytest.param(with_metrics, "evaluate", "ZeroDivisionError: division by zero", id="metrics that raise"),
    *(
        pytest.param(build, phase, says, id=name, marks=pytest.mark.slow)
        for name, build, phase, says in (
            (
                "a metric that evaluation never reports",
                with_metric_that_is_not_there,
                "evaluate",
                "'eval_f1', which is not found in the evaluation metrics",
            ),
            ("a callback that looks for a file", with_callback(ON_SAVE, "Copy"), "save", "FileNotFoundError"),
            ("a callback that cannot resume", with_callback(AT_STEP_2, "Grow"), "resume", "KeyError: 1"),
            (
                "generation settings that cannot be saved",
                with_generation_settings_that_cannot_be_saved,
                "save",
                "Fix these issues to save the configuration",
            ),
            ("a loss that is no number", with_loss_that_is_no_number, "train", "at step 2"),
            (
                "a callback that wants to be told more",
                with_callback(NEEDS, "Copy"),
                "load",
                "missing 1 required positional argument: 'target'",
            ),
        )
    ),
]


@pytest.mark.parametrize(("build", "phase", "says"), FAULTS)
def test_what_only_steps_show_is_told_by_its_phase(build: Any, phase: str, says: str, place: Place) -> None:
    checked = place.check(**build(place))
    (told,) = checked.of("error")
    assert told.startswith(f"a rehearsal of the run fails in its phase {phase}: ")
    assert says in told
    assert str(place.scratch) not in told
    assert checked.code in (ExitCode.TRAINING_FAILED, ExitCode.USAGE)
    assert told in checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        (
            "zero2",
            {**EVALUATES, "load_best_model_at_end": True, "save_strategy": "epoch", "save_total_limit": 1},
        ),
        ("ddp", LORA),
        ("zero3", {**LORA, "load_in_4bit": True, "gradient_checkpointing": True}),
        ("fsdp2", LORA),
    ],
)
def test_a_strategy_is_rehearsed_as_it_is(strategy: str, more: dict[str, Any], place: Place) -> None:
    launch = {"device": "cpu", "processes_per_node": 2, "strategy": strategy}
    checked = place.check(**more, launch=launch)
    assert checked.code == 0, checked.stderr
    assert checked.of("error") + checked.of("warning") == []
    assert "2 processes" in checked.of("note")[0]
    assert any("bit by bit" in line for line in checked.of("note"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, place: Place) -> None:
    command, environment = place.command(**LORA)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as check:
        until = time.monotonic() + 120
        family: list[psutil.Process] = []
        while not any("sft.training.train" in _words(one) for one in family):
            assert time.monotonic() < until
            assert check.poll() is None
            time.sleep(0.2)
            family = psutil.Process(check.pid).children(recursive=True)
        check.send_signal(number)
        check.communicate(timeout=60)
    assert check.returncode == 130
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert list(place.scratch.glob("sft-deep-*")) == []


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
