"""Rows that would be joined are taken one at a time, where joining them would cost their square."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sft.check.run import check_run
from sft.errors import UserError
from sft.launch.accelerate_file import launch_files
from sft.plan.hardware import Hardware
from sft.plan.plan import Plan, make_plan, read_plan
from sft.rundir import RunDirectory
from tests.config.reading import read

NO_GPU = Hardware((), (), 8, 2**34)
FOUR_GPUS = Hardware(("H100",) * 4, (80 * 2**30,) * 4, 32, 2**38)
NOTE = (
    "per_device_train_batch_size 8 x gradient_accumulation_steps 1 is run as 1 x 8, the same rows and loss a step:"
    " without FlashAttention, rows that are joined cost the square of their length"
)


def plan(tmp_path: Path, text: str, hardware: Hardware = NO_GPU) -> Plan:
    return make_plan(read(tmp_path, text + "\n", ()), hardware)


@pytest.mark.parametrize(
    ("text", "micro", "accumulation"),
    [
        ("packing: true", 1, 8),
        ("packing: true\npacking_strategy: bfd_split", 1, 8),
        ("packing: true\nattn_implementation: sdpa", 1, 8),
        ("packing: true\nattn_implementation: eager", 1, 8),
        ("padding_free: true\nmax_length: null", 1, 8),
        ("packing: true\nper_device_train_batch_size: 4\ngradient_accumulation_steps: 3", 1, 12),
        ("packing: true\ntotal_train_batch_size: 24", 1, 24),
        ("packing: true\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 3", 1, 3),
        ("packing: true\nattn_implementation: flash_attention_2", 8, 1),
        ("packing: true\nattn_implementation: flash_attention_3", 8, 1),
        ("packing: true\nattn_implementation: kernels-community/vllm-flash-attn3", 8, 1),
        ("packing: true\nmodel_init_kwargs: {attn_implementation: flash_attention_2}", 8, 1),
        ("packing: true\npacking_strategy: wrapped\nallow_sample_mixing: true", 8, 1),
        ("packing: true\noptim: galore_adamw_layerwise\noptim_target_modules: all-linear", 8, 1),
        ("", 8, 1),
    ],
)  # fmt: skip
def test_only_rows_that_are_joined_without_flash_attention_are_taken_singly(
    tmp_path: Path, text: str, micro: int, accumulation: int
) -> None:
    made = plan(tmp_path, text)
    assert (made.micro_batch, made.accumulation) == (micro, accumulation)


def test_the_rows_of_a_step_stay_what_they_were_and_a_note_says_so(tmp_path: Path) -> None:
    made = plan(tmp_path, "packing: true", FOUR_GPUS)
    assert made.batch.total == 32
    assert made.notes == (NOTE,)
    path = tmp_path / "plan.json"
    path.write_text(made.to_json())
    assert read_plan(path).notes == (NOTE,)
    assert plan(tmp_path, "packing: true\nper_device_train_batch_size: 1").notes == ()


def test_the_note_is_among_those_of_a_check(tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text("model_name_or_path: m\ndataset_name: d\npacking: true\nassistant_only_loss: true\n")
    assert check_run(run, hardware=NO_GPU).notes == (NOTE,)


def test_numbers_in_a_file_of_ones_own_become_those_of_the_launch(tmp_path: Path) -> None:
    settings = tmp_path / "ds.json"
    settings.write_text(
        '{"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 1,'
        ' "train_micro_batch_size_per_gpu": 8, "train_batch_size": "auto"}'
    )
    accelerate = tmp_path / "accelerate.yaml"
    accelerate.write_text(
        "distributed_type: DEEPSPEED\nnum_processes: 4\nmixed_precision: bf16\n"
        "deepspeed_config: {zero_stage: 2, gradient_accumulation_steps: 1}\n"
    )
    run = RunDirectory(tmp_path / "out")
    files = launch_files(
        plan(tmp_path, f"packing: true\ndeepspeed: {settings}", FOUR_GPUS), run, "sft launch"
    )
    assert files.deepspeed_json is not None
    found = json.loads(files.deepspeed_json)
    assert (
        found["gradient_accumulation_steps"],
        found["train_micro_batch_size_per_gpu"],
        found["train_batch_size"],
    ) == (8, 1, "auto")
    own = plan(tmp_path, f"packing: true\naccelerate_config: {accelerate}", FOUR_GPUS)
    section = yaml.safe_load(launch_files(own, run, "sft launch").accelerate_yaml)["deepspeed_config"]
    assert section["gradient_accumulation_steps"] == 8


def test_a_file_that_contradicts_the_batch_as_it_was_asked_for_is_refused_all_the_same(
    tmp_path: Path,
) -> None:
    settings = tmp_path / "ds.json"
    settings.write_text('{"zero_optimization": {"stage": 2},\n"gradient_accumulation_steps": 8}')
    with pytest.raises(UserError) as caught:
        plan(tmp_path, f"packing: true\ndeepspeed: {settings}", FOUR_GPUS)
    assert str(caught.value) == (
        f"gradient_accumulation_steps 8 in the file is not the run's, 1\n  where: {settings}:2\n"
        '  fix:   set gradient_accumulation_steps: "auto"'
    )
