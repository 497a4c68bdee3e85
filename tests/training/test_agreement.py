"""The world that was promised, and the one that came up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing

from sft.config.loader import load_run
from sft.errors import ExitCode, UserError
from sft.plan.batch import Batch
from sft.plan.hardware import Hardware
from sft.plan.plan import make_plan
from sft.rundir import RunDirectory
from sft.training.agreement import World, any_rank, assert_world, largest, largest_of, promised_world
from sft.training.rank import Rank

CPU = torch.device("cpu")
HARDWARE = Hardware(gpu_names=(), gpu_memory_bytes=(), cpu_cores=2, memory_bytes=2**33)


def config_of(*words: str) -> Any:
    common = ["--model_name_or_path", "m", "--dataset_name", "d", "--use_cpu", "true"]
    return load_run(None, [*common, *words], environment={})


def world(**changes: Any) -> World:
    values = {
        "processes": 2,
        "distributed_type": "FSDP",
        "device": "cpu",
        "batch": Batch(1, 1, 2),
        "source": "the plan",
    }
    return World(**{**values, **changes})


def test_what_came_up_as_planned_passes(tmp_path: Path) -> None:
    assert_world(world(), processes=2, device=CPU, distributed_type="FSDP", rank=Rank(RunDirectory(tmp_path)))
    by_hand = world(distributed_type=None)
    assert_world(
        by_hand, processes=2, device=CPU, distributed_type="MULTI_CPU", rank=Rank(RunDirectory(tmp_path))
    )


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"processes": 1}, "1 processes instead of 2"),
        ({"distributed_type": "MULTI_GPU"}, "distributed type MULTI_GPU instead of FSDP"),
        ({"device": torch.device("cuda")}, "device cuda instead of cpu"),
        (
            {"processes": 1, "distributed_type": "NO"},
            "1 processes instead of 2; distributed type NO instead of FSDP",
        ),
    ],
)
def test_what_came_up_otherwise_is_refused(tmp_path: Path, found: dict[str, Any], told: str) -> None:
    came_up = {"processes": 2, "device": CPU, "distributed_type": "FSDP", **found}
    with pytest.raises(UserError) as caught:
        assert_world(world(), **came_up, rank=Rank(RunDirectory(tmp_path)))
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert str(caught.value) == (
        f"the ranks came up otherwise than planned: {told}\n"
        "  where: rank 0, against the plan\n"
        "  fix:   launch with `sft launch`, or give accelerate the file it wrote (_sft/accelerate.yaml)"
    )


def test_promise_of_a_plan() -> None:
    words = ("--processes_per_node", "2", "--strategy", "zero3", "--total_train_batch_size", "8")
    loaded = config_of(*words)
    plan = make_plan(loaded, HARDWARE)
    promised = promised_world(loaded.config, plan)
    assert (promised.processes, promised.distributed_type, promised.device) == (2, "DEEPSPEED", "cpu")
    assert (promised.batch, promised.source) == (Batch(4, 1, 2), "the plan")


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({}, None),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
        ({"ACCELERATE_USE_FSDP": "false"}, None),
    ],
)
def test_promise_of_a_launch_by_hand(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], kind: str | None
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    promised = promised_world(config_of("--total_train_batch_size", "16").config, None)
    assert (promised.processes, promised.distributed_type, promised.batch) == (4, kind, Batch(4, 1, 4))
    assert promised.source == "the launcher's environment"


def test_batch_that_cannot_be_had_by_hand_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError) as caught:
        promised_world(config_of("--total_train_batch_size", "16").config, None)
    assert str(caught.value) == (
        "total_train_batch_size 16 is not a multiple of 3 (3 processes)\n"
        "  where: total_train_batch_size\n"
        "  fix:   use 15 or 18"
    )


def test_alone_a_rank_agrees_with_itself() -> None:
    assert (any_rank(True, CPU), any_rank(False, CPU), largest(2.5, CPU)) == (True, False, 2.5)
    assert largest_of([1, -1e12, 0.5], CPU) == [1.0, -1e12, 0.5]


def _one_of_two(index: int, meeting: str, answers: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=index, world_size=2)
    found = (any_rank(index == 1, CPU), any_rank(False, CPU), largest(float(index), CPU))
    Path(f"{answers}{index}").write_text(repr(found))
    torch.distributed.destroy_process_group()


def test_two_ranks_agree_on_what_one_of_them_saw(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path / "meeting"), str(tmp_path / "answer")), nprocs=2)
    assert [(tmp_path / f"answer{index}").read_text() for index in (0, 1)] == ["(True, False, 1.0)"] * 2


@pytest.mark.parametrize(
    ("environment", "settings", "batch"),
    [
        ({}, None, Batch(1, 8, 2)),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, None, Batch(1, 8, 2)),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"},
            None,
            Batch(8, 1, 2),
        ),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, '{"gradient_accumulation_steps": "auto"}', Batch(1, 8, 2)),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, '{"gradient_accumulation_steps": 1}', Batch(8, 1, 2)),
    ],
)
def test_by_hand_joined_rows_are_taken_singly_unless_deepspeed_was_told_another_number(
    environment: dict[str, str],
    settings: str | None,
    batch: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if settings is not None:
        (tmp_path / "ds.json").write_text(settings)
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "ds.json"))
    for name, value in {"WORLD_SIZE": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    assert promised_world(config_of("--packing", "true").config, None).batch == batch
