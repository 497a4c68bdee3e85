"""`sft plan`: the whole of what it prints, of a model that is a configuration alone, on GPUs that nobody has here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.cli.main import main
from sft.errors import ExitCode
from tests.plan.test_shape import LLAMA_8B

LORA_ON_FOUR = """\
llama: 8.03B numbers, 32 layers of 4,096, vocabulary 128,256
lora: 41.9M numbers are trained
ddp on 4 GPUs, bf16 precision
64 rows a step = per_device_train_batch_size 4 x gradient_accumulation_steps 4 x 4 processes
"""
WAYS = """\
it does not fit; what would make it fit:
- per_device_train_batch_size: 4 -> 1: """


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A LoRA run of an 8B model."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA_8B))
    (tmp_path / "chats.jsonl").write_text('{"text": "one"}\n' * 1000)
    settings: dict[str, Any] = {
        "model_name_or_path": str(tmp_path / "model"),
        "dataset_name": str(tmp_path / "chats.jsonl"),
        "use_peft": True,
        "lora_target_modules": "all-linear",
        "dtype": "bfloat16",
        "max_length": 4096,
        "per_device_train_batch_size": 4,
        "total_train_batch_size": 64,
        "output_dir": str(tmp_path / "out"),
        "launch": {"gpus_per_node": 4},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    return tmp_path / "run.yaml"


def lines_of(text: str) -> dict[str, str]:
    """Return each line of a bill by its name."""
    return {line[2:20].strip(): line[20:].strip() for line in text.splitlines() if line.startswith("  ")}


def test_a_plan_says_what_runs_what_it_holds_and_how_long_it_takes(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(run_file), "--gpu", "h100-80g"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(LORA_ON_FOUR)
    bill = lines_of(told.split("memory of machine 0")[0])
    # 8,030,261,248 numbers of 2 bytes, and 41,943,040 of an adapter in 4.
    assert bill["weights"] == "15.1 GiB  15.1 GiB  = 2 bytes a number"
    assert bill["optimizer"] == "0.3 GiB   0.3 GiB  = adamw_torch_fused"
    assert bill["together"].endswith("of 79.6 GiB: fits")
    # 1000 rows, 64 a step, three epochs: 48 steps.
    assert "for all steps; ask for launch.time_limit: 00:30:00" in told
    assert all(len(line) <= 80 for line in told.splitlines() if not line.startswith(("64 rows", "assumed")))


def test_a_run_that_does_not_fit_is_told_what_would_make_it_fit(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(run_file), "--gpu", "24GiB"]) == ExitCode.DOES_NOT_FIT
    told = capsys.readouterr()
    assert "of 24.0 GiB: does not fit" in told.out
    assert told.err.startswith(WAYS)
    assert "load_in_4bit: true" in told.err
    assert main(["plan", str(run_file), "--gpu", "24GiB", "--per_device_train_batch_size", "1"]) == 0


def test_a_choice_keeps_the_rows_of_a_step_and_says_why_not_the_others(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--strategy", "auto", "--per_device_train_batch_size", "auto"]
    assert main(["plan", str(run_file), "--gpu", "a100-40g", *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    plan = document["plan"]
    assert plan["total_train_batch_size"] == 64
    assert document["plan"]["memory"]["fits"]
    chosen, *others = plan["choices"]
    assert chosen.startswith(f"chosen: {plan['strategy']}, {plan['micro_batch']} x {plan['accumulation']}, ")
    assert len(others) == 3
    assert all(line.startswith("not taken: ") for line in others)


def test_a_full_model_is_sharded_where_one_gpu_cannot_hold_it(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads(run_file.read_text())
    del settings["lora_target_modules"], settings["use_peft"]
    run_file.write_text(json.dumps(settings))
    words = ["--strategy", "auto", "--per_device_train_batch_size", "auto"]
    assert main(["plan", str(run_file), "--gpu", "h100-80g", "--gpus-per-node", "8", *words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["strategy"] in ("zero2", "zero3", "fsdp2")
    assert plan["memory"]["at_most"] <= plan["memory"]["capacity"]


def test_a_choice_of_rows_needs_their_sum(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = json.loads(run_file.read_text())
    del settings["total_train_batch_size"]
    run_file.write_text(json.dumps({**settings, "per_device_train_batch_size": "auto"}))
    assert main(["plan", str(run_file), "--gpu", "h100-80g"]) == ExitCode.USAGE
    assert "needs to know how many rows a step is to have" in capsys.readouterr().err


def test_a_model_without_a_shape_is_told(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_file.parent / "model" / "config.json").write_text("{}")
    assert main(["plan", str(run_file), "--gpu", "h100-80g"]) == ExitCode.ENVIRONMENT
    assert "there is no config.json here that can be read" in capsys.readouterr().err
