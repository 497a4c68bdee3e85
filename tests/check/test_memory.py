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
