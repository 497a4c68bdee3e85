"""What would make a run fit: real changes, as small as they can be, at the price that the plan then has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sft.config.run import RunConfig
from sft.plan.changes import Way, ways_to_fit
from sft.plan.decide import option
from sft.plan.gpus import GPUS, GpuModel
from sft.plan.hardware import asked_for
from sft.plan.plan import Plan, make_plan
from sft.plan.read_shape import read_shape
from sft.plan.shape import Shape
from tests.plan.test_shape import LLAMA_8B
from tests.training.here import read_settings

SHAPE = read_shape(LLAMA_8B, None)


def shape() -> Shape:
    assert SHAPE is not None
    return SHAPE


def planned(directory: Path, gpus: int = 4, **settings: Any) -> tuple[RunConfig, Plan]:
    """Plan a run of an 8B model that need not be there."""
    usual = {
        "model_name_or_path": "org/model",
        "dataset_name": "org/data",
        "dtype": "bfloat16",
        "max_length": 4096,
    }
    launch = {"gpus_per_node": gpus, **settings.pop("launch", {})}
    loaded = read_settings(directory, {**usual, **settings, "launch": launch})
    return loaded.config, make_plan(loaded, asked_for(gpus, 8), is_placed=False)


def words(ways: list[Way]) -> list[list[str]]:
    return [[change.words for change in way.changes] for way in ways]


def check_prices(config: RunConfig, plan: Plan, gpu: GpuModel, ways: list[Way]) -> None:
    """Apply each way, and see that it fits and saves what it said."""
    before = option(config, plan, shape(), gpu)
    assert not before.fits
    for way in ways:
        changed = (config, plan)
        for change in way.changes:
            changed = change.apply(changed)
        after = option(*changed, shape(), gpu)
        assert after.fits, way.line()
        assert before.estimate.device.at_most - after.estimate.device.at_most == sum(way.saved)
        assert changed[1].batch.total == plan.batch.total


def test_each_way_fits_at_the_price_that_it_names(tmp_path: Path) -> None:
    run = planned(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    gpu = GPUS["a100-40g"]
    ways = ways_to_fit(*run, shape(), gpu)
    check_prices(*run, gpu, ways)
    assert {len(way.changes) for way in ways} == {len(ways[0].changes)}


def test_a_change_is_no_stronger_than_it_must_be(tmp_path: Path) -> None:
    settings = {"use_peft": True, "lora_target_modules": "all-linear", "gradient_checkpointing": True}
    run = planned(tmp_path, 1, per_device_train_batch_size=8, gradient_accumulation_steps=8, **settings)
    gpu = GpuModel(name="", memory_mib=32 << 10)
    ways = ways_to_fit(*run, shape(), gpu)
    check_prices(*run, gpu, ways)
    assert ["per_device_train_batch_size: 8 -> 4"] in words(ways)
    assert ["max_length: 4096 -> 2048"] in words(ways)


def test_more_gpus_are_told_only_where_the_rows_of_a_step_stay(tmp_path: Path) -> None:
    gpu = GPUS["a100-40g"]
    launch = {"strategy": "zero3"}
    even = planned(
        tmp_path / "even", 8, per_device_train_batch_size=1, gradient_accumulation_steps=8, launch=launch
    )
    ways = ways_to_fit(*even, shape(), GpuModel(name="", memory_mib=20 << 10))
    assert ["8 more GPUs"] in words(ways)
    odd = planned(
        tmp_path / "odd", 8, per_device_train_batch_size=1, gradient_accumulation_steps=3, launch=launch
    )
    assert not any("more GPUs" in word for way in words(ways_to_fit(*odd, shape(), gpu)) for word in way)


def test_nothing_is_told_that_the_kit_refuses(tmp_path: Path) -> None:
    """Adafactor has nothing to factor in ZeRO-3's flat parts, and 4-bit weights need a storage type under FSDP2."""
    gpu = GPUS["a100-40g"]
    adafactor = planned(tmp_path / "a", optim="adafactor", per_device_train_batch_size=1)
    told = words(ways_to_fit(*adafactor, shape(), gpu))
    assert not any("zero3" in word for way in told for word in way)
    lora = {"use_peft": True, "lora_target_modules": "all-linear", "per_device_train_batch_size": 4}
    sharded = planned(tmp_path / "b", 2, launch={"strategy": "fsdp2"}, **lora)
    gpu = GpuModel(name="", memory_mib=20 << 10)
    ways = ways_to_fit(*sharded, shape(), gpu, most=20)
    check_prices(*sharded, gpu, ways)
    assert any("bnb_4bit_quant_storage: bfloat16" in word for way in words(ways) for word in way)


def test_offloading_names_the_memory_of_the_machine(tmp_path: Path) -> None:
    run = planned(tmp_path, 4, per_device_train_batch_size=1)
    ways = ways_to_fit(*run, shape(), GPUS["a100-40g"])
    (offload,) = [way for way in ways if way.changes[0].words == "launch.strategy: zero3_offload"]
    # 8.03 billion numbers: 2 bytes of weights, 16 of the optimizer, 2 while they are loaded; and 4 processes.
    assert offload.host == pytest.approx(20 * 8.03e9 + 4 * 2.3e9, rel=0.01)
    assert offload.line().endswith("of each machine's memory are needed then")


def test_a_machine_with_too_little_memory_does_not_offload(tmp_path: Path) -> None:
    config, plan = planned(tmp_path, 4, per_device_train_batch_size=1)
    plan = dataclasses.replace(plan, strategy=plan.strategy.__class__("zero3_offload"))
    gpu = GPUS["a100-40g"]
    assert option(config, plan, shape(), gpu, 512 << 30).fits
    assert not option(config, plan, shape(), gpu, 64 << 30).fits
