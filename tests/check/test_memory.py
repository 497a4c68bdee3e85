"""A run that is likely to run out of memory is refused, one that may is warned of, and one that fits is said to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.check.checks import named
from sft.check.finding import Finding
from sft.check.survey import survey
from sft.errors import ExitCode
from sft.plan.hardware import Hardware
from tests.check.made import write_run
from tests.plan.test_shape import LLAMA_8B


def told(directory: Path, gib: int, **settings: Any) -> list[Finding]:
    """Look at a LoRA run of an 8B model on one GPU."""
    (directory / "model").mkdir(exist_ok=True)
    (directory / "model" / "config.json").write_text(json.dumps(LLAMA_8B))
    named_too = {
        "model_name_or_path": str(directory / "model"),
        "dataset_name": "rows.jsonl",
        "use_peft": True,
        "lora_target_modules": "all-linear",
        "dtype": "bfloat16",
        "max_length": 4096,
        "per_device_train_batch_size": 2,
        **settings,
    }
    hardware = Hardware(("NVIDIA A100-SXM4-40GB",), (gib << 30,), 8, 64 << 30)
    run = write_run(directory, **named_too)
    return [*survey(run, (), hardware, checks=named(["memory"])).findings]


def test_what_is_likely_to_run_out_of_memory_is_refused_with_what_would_fit(tmp_path: Path) -> None:
    (finding,) = told(tmp_path, 16)
    assert (finding.gravity, finding.exit_code, finding.check) == ("error", ExitCode.DOES_NOT_FIT, "memory")
    assert finding.problem.what.startswith("the run does not fit: memory of one GPU: about 22.")
    assert finding.problem.what.endswith("and there are 16.0 GiB")
    assert "load_in_4bit: true" in str(finding.problem.fix)


def test_what_may_run_out_of_memory_is_warned_of(tmp_path: Path) -> None:
    (finding,) = told(tmp_path, 23)
    assert finding.gravity == "warning"
    assert finding.problem.what.startswith("the run may not fit: ")
    assert "per_device_train_batch_size: 2 -> 1" in str(finding.problem.fix)


def test_what_fits_is_said_in_one_line(tmp_path: Path) -> None:
    (finding,) = told(tmp_path, 40)
    assert finding.gravity == "note"
    assert finding.problem.what.endswith("of 40.0 GiB")


def test_rows_that_are_shorter_than_max_length_are_no_reason_to_refuse(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    """With every row as long as max_length it would not fit; the rows that there are do."""
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / "model").mkdir(exist_ok=True)
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    data = {"dataset_name": str(tiny_chats), "max_length": 65536, "gradient_checkpointing": True}
    (finding,) = told(tmp_path, 22, **data)
    assert finding.gravity == "warning"
    assert "with rows as long as max_length the run does not fit" in finding.problem.what
    assert "The longest of its first rows has" in finding.problem.what
    assert str(finding.problem.fix).startswith("set max_length: ")
    finding = told(tmp_path, 22, **data, packing=True)[0]
    assert finding.gravity == "error"


def test_metrics_of_ones_own_are_warned_to_keep_all_logits(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(prediction):\n    return {}\n")
    scored = {"compute_metrics": f"{tmp_path}/mine.py:score", "eval_strategy": "steps", "eval_steps": 5}
    logits, _ = told(tmp_path, 80, **scored)
    assert logits.gravity == "warning"
    # 8 rows of 4,096 positions, 128,256 words, 4 bytes.
    assert logits.problem.what.startswith(
        "compute_metrics keeps the logits of every evaluation batch on the GPU, up to 15.7 GiB"
    )
    assert logits.problem.fix == "set eval_accumulation_steps: 1, which moves them to host memory"
    (finding,) = told(tmp_path, 80, **scored, eval_accumulation_steps=1)
    assert finding.gravity == "note"


def test_a_machine_without_the_memory_that_offloading_takes_is_warned_of(tmp_path: Path) -> None:
    settings = {"use_peft": False, "lora_target_modules": None, "launch": {"strategy": "zero3_offload"}}
    (finding,) = [one for one in told(tmp_path, 40, **settings) if one.gravity == "warning"]
    assert finding.problem.what.startswith("memory of machine 0: about 1")
    assert "and there are 64.0 GiB; most of it is optimizer" in finding.problem.what


def test_a_kind_of_layers_that_cannot_be_counted_is_said(tmp_path: Path) -> None:
    directory = tmp_path / "mamba"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "mamba", "hidden_size": 64}))
    (tmp_path / "model").mkdir()
    (finding,) = told(tmp_path, 16, model_name_or_path=str(directory), lora_target_modules=["in_proj"])
    assert finding.gravity == "note"
    assert finding.problem.what.startswith(
        "whether the run fits is not known: its config.json, of the type mamba, has no number for"
    )


@pytest.mark.parametrize("device", ["cpu"])
def test_of_a_run_on_the_cpu_nothing_is_said(device: str, tmp_path: Path) -> None:
    assert told(tmp_path, 16, launch={"device": device}) == []


def test_a_model_without_a_known_shape_is_no_reason_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert told(tmp_path, 16, model_name_or_path="nobody/has-this") == []


@pytest.mark.parametrize("name", ["/nope/model", "./nope", "a/b/c", "~nobody/x"])
def test_a_path_that_leads_nowhere_is_no_reason_to_fall_over(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert told(tmp_path, 16, model_name_or_path=name) == []
