"""A `trl sft --config` YAML is a run file as it stands, and trains what TRL trains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trl.scripts

from sft.rundir import RunDirectory
from tests.training.launching import SFT, Launched

TRL_SCRIPT = Path(trl.scripts.__file__).with_name("sft.py")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_stock_yaml_gives_trls_own_losses(
    method: str, tiny_model: Path, tmp_path: Path, tiny_chats: Path
) -> None:
    adapter = {"full": "", "lora": "use_peft: true\nlora_r: 8\nlora_alpha: 16\n"}[method]
    # TRL's script reads a data set by name or directory only.
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text(tiny_chats.read_text())
    run_file = tmp_path / "stock.yaml"
    run_file.write_text(
        f"""\
# Model arguments
model_name_or_path: {tiny_model}
dtype: bfloat16
{adapter}
# Dataset arguments
dataset_name: {data}

# Training arguments
output_dir: {tmp_path / "ours"}
learning_rate: 2.0e-2
lr_scheduler_type: cosine
warmup_steps: 2
max_steps: 6
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
packing: true
max_length: 128
logging_steps: 1
save_strategy: "no"
report_to: none
seed: 7
use_cpu: true
env:
  STOCK: "1"
"""
    )
    theirs = subprocess.run(
        [
            sys.executable,
            str(TRL_SCRIPT),
            "--config",
            str(run_file),
            "--output_dir",
            str(tmp_path / "theirs"),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert theirs.returncode == 0, theirs.stderr
    losses = [float(loss) for loss in re.findall(r"'loss': '?([0-9.]+)", theirs.stdout)]
    assert len(losses) == 6, theirs.stdout

    ours = subprocess.run(
        [*SFT, "launch", str(run_file)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=os.environ,
    )
    run = Launched(ours.returncode, ours.stdout, ours.stderr, RunDirectory(tmp_path / "ours"))
    assert run.code == 0, ours.stderr
    # TRL prints four significant digits.
    assert run.losses == pytest.approx(losses, rel=2e-3)
