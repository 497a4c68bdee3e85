"""What the bill says that an optimizer keeps is what the real one keeps, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from sft.plan.memory.ledger import Parameter
from sft.plan.memory.optimizers import Optimizer

ROWS, WIDE, NARROW = 96, 160, 64
LOW_RANK = {"optim_target_modules": "all-linear"}
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("adamw_torch", {}),
    ("adamw_torch_fused", {}),
    ("sgd", {}),
    ("sgd", {"optim_args": "momentum=0.9"}),
    ("rmsprop", {}),
    ("rmsprop", {"optim_args": "momentum=0.9,centered=true"}),
    ("adagrad", {}),
    ("adafactor", {}),
    ("adamw_8bit", {}),
    ("adamw_bnb_8bit", {}),
    ("paged_adamw_8bit", {}),
    ("paged_adamw_32bit", {}),
    ("lion_8bit", {}),
    ("lion_32bit", {}),
    ("rmsprop_bnb", {}),
    ("rmsprop_bnb_8bit", {}),
    ("ademamix", {}),
    ("ademamix_8bit", {}),
    ("galore_adamw", LOW_RANK),
    ("galore_adamw", {**LOW_RANK, "optim_args": "rank=8,proj_type=reverse_std"}),
    ("galore_adamw", {**LOW_RANK, "optim_args": "rank=8,proj_type=left"}),
    ("galore_adafactor", {**LOW_RANK, "optim_args": "rank=8"}),
    ("apollo_adamw", {**LOW_RANK, "optim_args": "rank=8"}),
    ("apollo_adamw", {**LOW_RANK, "optim_args": "rank=8,proj=svd"}),
)


class Model(nn.Module):
    """A table, a wide and a narrow matrix, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, NARROW)
        self.up = nn.Linear(NARROW, WIDE)
        self.down = nn.Linear(WIDE, NARROW, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.down(self.up(self.table(tokens)))
        return hidden


def planned(optimizer: Optimizer, width: int) -> list[Parameter]:
    """Describe the model as the plan does."""

    def linear(name: str, inputs: int, outputs: int) -> Parameter:
        numbers, is_projected = inputs * outputs, optimizer.projects(name)
        return Parameter(numbers, width, trained=True, sides=(inputs, outputs), projected=is_projected)

    table = Parameter(ROWS * NARROW, width, trained=True, sides=(ROWS, NARROW), is_embedding=True)
    return [
        table,
        linear("up", NARROW, WIDE),
        Parameter(WIDE, width, trained=True),
        linear("down", WIDE, NARROW),
    ]


def kept(optimizer: torch.optim.Optimizer) -> int:
    """Add up the distinct storages that an optimizer holds."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [getattr(value, "ortho_matrix", value) for value in values]
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for tensor in tensors
        if isinstance(tensor, torch.Tensor)
    }
    return sum(storages.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "settings"), CASES, ids=lambda value: str(value))
def test_an_optimizer_keeps_what_the_plan_says(
    name: str, settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Model().to(dtype)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), optim=name, use_cpu=True, report_to="none", **settings
    )
    trainer = Trainer(model=model, args=arguments)
    optimizer = trainer.create_optimizer()
    for _ in range(2):
        model(torch.arange(32)).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    words = (word.partition("=") for word in settings.get("optim_args", "").split(",") if word)
    planner = Optimizer(
        name=name,
        arguments={key: value for key, _, value in words},
        targets=settings.get("optim_target_modules"),
    )
    assert planner.kept(planned(planner, dtype.itemsize)) == kept(optimizer)


def test_a_shard_keeps_its_part_and_a_count_of_steps_of_each_tensor() -> None:
    weights = [Parameter(1000, 4, trained=True), Parameter(10, 4, trained=True)]
    assert Optimizer(name="adamw_torch").kept(weights, 2) == 2 * 1010 * 4 // 2 + 2 * 4


def test_torch_makes_one_more_copy_on_a_gpu_unless_it_is_fused() -> None:
    weights = [Parameter(1000, 4, trained=True), Parameter(10, 4, trained=True)]
    assert Optimizer(name="adamw_torch").updating(weights, "gpu") == 1010 * 4
    assert Optimizer(name="adamw_torch").updating(weights, "cpu") == 1000 * 4
    assert Optimizer(name="adamw_torch_fused").updating(weights, "gpu") == 0
