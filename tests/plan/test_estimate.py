"""From a run file to a job: what decides about memory, and is not what the file says by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.plan.hardware import asked_for
from sft.plan.memory.estimate import estimate, job_of
from sft.plan.memory.job import Job
from sft.plan.plan import make_plan
from sft.plan.read_shape import read_shape
from tests.plan.test_shape import LLAMA_8B
from tests.training.here import read_settings

LORA = {"use_peft": True, "lora_target_modules": "all-linear"}


def job(directory: Path, strategy: str, **settings: Any) -> Job:
    shape = read_shape(LLAMA_8B, None)
    assert shape is not None
    launch = {"gpus_per_node": 4, "strategy": strategy}
    usual = {"model_name_or_path": "org/model", "dataset_name": "org/data", "launch": launch}
    loaded = read_settings(directory, {**usual, **settings})
    return job_of(loaded.config, make_plan(loaded, asked_for(4, 8), is_placed=False), shape)[0]


@pytest.mark.parametrize(
    ("strategy", "settings", "widths"),
    [
        # what is computed with, what is stored, what autocast makes; of an adapter the first two
        ("ddp", {"dtype": "bfloat16"}, (2, None, 2, 4, None)),
        ("ddp", {}, (4, None, 2, 4, None)),
        ("ddp", {"bf16": False}, (4, None, None, 4, None)),
        ("zero3", {}, (2, None, None, 2, None)),
        ("zero3", {"bf16": False}, (4, None, None, 4, None)),
        # accelerate upcasts what is trained, and FSDP2 gathers it in bfloat16
        ("fsdp2", {"dtype": "bfloat16"}, (2, 4, None, 2, 4)),
        ("fsdp2", {}, (2, 4, None, 2, 4)),
        ("fsdp2", {"dtype": "bfloat16", **LORA}, (2, None, None, 2, 4)),
        ("fsdp2", {"bf16": False}, (4, None, None, 4, None)),
    ],
)
def test_numbers_are_as_wide_as_the_strategy_makes_them(
    strategy: str, settings: dict[str, Any], widths: tuple[int | None, ...], tmp_path: Path
) -> None:
    made = job(tmp_path, strategy, **settings)
    found = (made.weight_width, made.own_width, made.autocast, made.adapter_width, made.adapter_own_width)
    assert found == widths


def test_joined_rows_and_flash_attention_are_told_apart(tmp_path: Path) -> None:
    packed = job(tmp_path, "ddp", packing=True, attn_implementation="flash_attention_2")
    assert (packed.attention, packed.joined) == ("flash", True)
    plain = job(tmp_path, "ddp", attn_implementation="sdpa")
    assert (plain.attention, plain.joined) == ("kernel", False)


def test_padding_needs_masks_that_the_bound_has_room_for(tmp_path: Path) -> None:
    """Rows of full length need no mask; once one is shorter, each layer makes numbers of it."""
    shape = read_shape(LLAMA_8B, None)
    assert shape is not None
    activations = {}
    for rows in (1, 2):
        launch = {"gpus_per_node": 4, "strategy": "ddp"}
        settings = {
            "dtype": "bfloat16",
            "max_length": 2048,
            "gradient_checkpointing": False,
            **LORA,
            "launch": launch,
        }
        loaded = read_settings(
            tmp_path / str(rows),
            {
                **settings,
                "model_name_or_path": "org/m",
                "dataset_name": "org/d",
                "per_device_train_batch_size": rows,
            },
        )
        plan = make_plan(loaded, asked_for(4, 8), is_placed=False)
        lines = estimate(loaded.config, plan, shape, None).device.lines
        activations[rows] = next(line for line in lines if line.name == "activations")
    assert activations[1].at_most == int(activations[1].likely * 1.03)
    masks = 32 * 2 * 2048**2 * 2  # layers, rows, positions squared, bytes
    assert activations[2].at_most == int(activations[2].likely * 1.03) + masks
