"""What a run does not use is left out of its ranks, and nothing that it may use is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.config.loader import load_run
from sft.training.unused import not_needed

PROBE = """
import sys
from pathlib import Path
from sft.config.loader import load_run
from sft.training.unused import leave_out
leave_out(load_run(Path(sys.argv[1])).config)
from trl import SFTTrainer
print(sorted(name for name in ("bitsandbytes", "deepspeed", "wandb") if sys.modules.get(name)))
"""


def run_file(directory: Path, model: Path | str, **settings: Any) -> Path:
    """Write a run file; JSON is YAML."""
    path = directory / "run.yaml"
    path.write_text(json.dumps({"model_name_or_path": str(model), "dataset_name": "chats.jsonl", **settings}))
    return path


def left_out(directory: Path, model: Path | str, **settings: Any) -> set[str]:
    return set(not_needed(load_run(run_file(directory, model, **settings)).config))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that says of itself what a model's does."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    return directory


def test_plain_run_leaves_all_three_out(tmp_path: Path, model: Path) -> None:
    assert left_out(tmp_path, model) == {"bitsandbytes", "deepspeed", "wandb"}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"load_in_4bit": True, "use_peft": True}, {"bitsandbytes"}),
        ({"load_in_8bit": True, "use_peft": True}, {"bitsandbytes"}),
        ({"optim": "adamw_8bit"}, {"bitsandbytes"}),
        ({"optim": "galore_adamw", "optim_target_modules": "all-linear"}, {"bitsandbytes"}),
        ({"model_init_kwargs": {"quantization_config": {"load_in_4bit": True}}}, {"bitsandbytes"}),
        ({"report_to": "wandb"}, {"wandb"}),
        ({"report_to": ["tensorboard", "wandb"]}, {"wandb"}),
        ({"report_to": "all"}, {"wandb"}),
        ({"callbacks": ["mine.py:Mine"]}, {"bitsandbytes", "deepspeed", "wandb"}),
        ({"formatting_func": "mine.py:text"}, {"bitsandbytes", "deepspeed", "wandb"}),
        ({"compute_metrics": "mine.py:metrics"}, {"bitsandbytes", "deepspeed", "wandb"}),
        ({"trust_remote_code": True}, {"bitsandbytes", "deepspeed", "wandb"}),
    ],
)
def test_what_may_be_used_stays(
    tmp_path: Path, model: Path, settings: dict[str, Any], kept: set[str]
) -> None:
    assert left_out(tmp_path, model, **settings) == {"bitsandbytes", "deepspeed", "wandb"} - kept


def test_deepspeed_stays_where_the_launcher_chose_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert left_out(tmp_path, model) == {"bitsandbytes", "wandb"}


def test_model_that_was_saved_quantised_keeps_bitsandbytes(tmp_path: Path, model: Path) -> None:
    (model / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    assert left_out(tmp_path, model) == {"deepspeed", "wandb"}


def test_model_that_is_not_on_this_machine_keeps_bitsandbytes(tmp_path: Path) -> None:
    assert left_out(tmp_path, "someone/model-that-is-not-here") == {"deepspeed", "wandb"}


def test_libraries_then_do_not_import_it(tmp_path: Path, model: Path) -> None:
    words = [sys.executable, "-c", PROBE, str(run_file(tmp_path, model))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
