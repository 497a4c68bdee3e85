"""What a run will need on disk is what checkpoints come to, and is held against the room that there is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sft.check import disk
from sft.check.disk import Bill, adapter_numbers, bill_of, look_at_disk, most_checkpoints
from sft.check.filesystem import Room
from sft.check.run import check_run
from sft.config.loader import LoadedRun
from sft.plan.plan import Plan
from sft.plan.weights import read_tensors
from tests.check.made import write_run
from tests.checkpoint import exact
from tests.checkpoint.test_exact import COPIES, TRAINABLE


def planned(directory: Path, model: Path, data: Path, **settings: Any) -> tuple[LoadedRun, Plan]:
    """Plan a run on CPU processes."""
    strategy = settings.pop("strategy", "single")
    processes = 1 if strategy == "single" else 2
    named: dict[str, Any] = {
        "model_name_or_path": str(model),
        "dataset_name": str(data),
        "bf16": False,
        "per_device_train_batch_size": 1,
        "launch": {"device": "cpu", "strategy": strategy, "processes_per_node": processes},
    }
    checked = check_run(write_run(directory, **named, **settings))
    return checked.loaded, checked.plan


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("strategy", COPIES)
def test_a_checkpoint_holds_what_its_strategy_keeps(
    method: str, strategy: str, tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    settings = dict(exact.METHODS[method])
    settings.pop("model_init_kwargs", None)
    loaded, plan = planned(tmp_path, tiny_model, tiny_chats, strategy=strategy, **settings)
    tensors = read_tensors(tiny_model)
    assert tensors is not None
    bill = bill_of(loaded.config, plan, tensors)
    assert bill.checkpoint_bytes == TRAINABLE[method] * 4 * COPIES[strategy] + disk.BESIDE_BYTES
    assert bill.model_bytes == TRAINABLE[method] * 4


@pytest.mark.parametrize(
    ("targets", "numbers"),
    [
        pytest.param("all-linear", 8_192, id="all-linear"),
        pytest.param(None, 8_192, id="peft's-own-at-most"),
        pytest.param(["q_proj", "v_proj"], 2 * 4 * (128 + 96), id="names"),
        pytest.param(["q_proj"], 2 * 4 * 128, id="a-list-of-one"),
        pytest.param(r".*layers\.0\..*q_proj", 4 * 128, id="a-pattern"),
    ],
)
def test_an_adapter_is_counted_from_the_shapes(
    targets: Any, numbers: int, tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    loaded, _ = planned(
        tmp_path, tiny_model, tiny_chats, use_peft=True, lora_r=4, lora_target_modules=targets
    )
    assert adapter_numbers(loaded.config, read_tensors(tiny_model) or []) == numbers
    kept, _ = planned(
        tmp_path,
        tiny_model,
        tiny_chats,
        use_peft=True,
        lora_r=4,
        lora_target_modules=targets,
        lora_modules_to_save=["embed_tokens"],
    )
    assert adapter_numbers(kept.config, read_tensors(tiny_model) or []) == numbers + 512 * 64


@pytest.mark.parametrize(
    ("settings", "rows", "kept"),
    [
        pytest.param({"max_steps": 100, "save_steps": 30}, None, 4, id="all"),
        pytest.param(
            {"max_steps": 100, "save_steps": 30, "save_total_limit": 2}, None, 3, id="one-in-flight"
        ),
        pytest.param({"max_steps": 20, "save_steps": 30, "save_total_limit": 2}, None, 1, id="fewer"),
        pytest.param({"save_total_limit": 1}, None, 2, id="limit-of-one"),
        pytest.param({"save_steps": 0.1}, None, 10, id="a-share-of-the-run"),
        pytest.param({"save_strategy": "epoch", "num_train_epochs": 3}, None, 3, id="epochs"),
        pytest.param({"save_strategy": "no"}, None, 1, id="a-stop-saves-one"),
        pytest.param({"save_steps": 100}, None, None, id="not-known"),
        pytest.param({"save_steps": 100, "num_train_epochs": 2}, 1000, 20, id="by-rows"),
    ],
)
def test_the_most_checkpoints_at_one_time(
    settings: dict[str, Any],
    rows: int | None,
    kept: int | None,
    tiny_model: Path,
    tiny_chats: Path,
    tmp_path: Path,
) -> None:
    loaded, plan = planned(tmp_path, tiny_model, tiny_chats, **settings)
    assert most_checkpoints(loaded.config, plan, rows) == kept


def test_what_cannot_fit_is_told_with_what_would(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, plan = planned(tmp_path, tiny_model, tiny_chats, max_steps=100, save_steps=10)
    monkeypatch.setattr(disk, "room", lambda path: Room(path, 1 << 40))
    lines, problems = look_at_disk(loaded, plan)
    assert problems == []
    assert lines == [
        f"disk: 10 checkpoints of 2.2 MiB each + the model 0.4 MiB = 22.9 MiB on {tmp_path / 'out'}"
        " (1,024.0 GiB is free)"
    ]
    monkeypatch.setattr(disk, "room", lambda path: Room(path, 1 << 40, 10 << 20))
    _, problems = look_at_disk(loaded, plan)
    assert [str(problem) for problem in problems] == [
        f"the run will write 22.9 MiB to {tmp_path / 'out'}, and 10.0 MiB is left of your quota"
        " (10 checkpoints of 2.2 MiB each + the model 0.4 MiB = 22.9 MiB)\n"
        f"  where: {tmp_path / 'run.yaml'}:1\n"
        "  fix:   set save_total_limit: 3, or output_dir to a file system that has room"
    ]


def test_what_is_there_already_is_not_counted_twice(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    assert Bill(10, 2, 5, 0).to_come == 25
    assert Bill(10, 2, 5, 0, here=12).to_come == 13
    assert Bill(10, None, 5, 0).line() == (
        "disk: checkpoints of 0.0 MiB each, all kept + the model 0.0 MiB = at least 0.0 MiB"
    )
    shutil.copytree(tiny_model, tmp_path / "out" / "checkpoint-1")
    loaded, plan = planned(tmp_path, tiny_model, tiny_chats, max_steps=1)
    have = look_at_disk(loaded, plan)[0][0]
    assert have.startswith("disk: 1 checkpoint of 2.2 MiB each + the model 0.4 MiB = 2.7 MiB on ")
