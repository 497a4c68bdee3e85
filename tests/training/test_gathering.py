"""What is gathered of a model that ZeRO-3 shards is what DeepSpeed's own consolidation gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing

from sft.checkpoint.capture import Arena
from sft.plan.batch import Batch
from sft.training.agreement import World
from sft.training.libraries import settle


class Tied(torch.nn.Module):
    """A model with a tied weight, a frozen layer, and a buffer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(31, 6)
        self.frozen = torch.nn.Linear(6, 6).requires_grad_(False)
        self.trained = torch.nn.Linear(6, 6)
        self.head = torch.nn.Linear(6, 31, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("passing", torch.zeros(2), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return a loss, a scalar."""
        loss: torch.Tensor = self.head(self.trained(self.frozen(self.embedding(ids)))).square().mean()
        return loss


def _one_of_two(index: int, place: str, persistent: int, batch_bytes: int) -> None:
    os.environ |= {
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": "2",
        "ACCELERATE_USE_DEEPSPEED": "true",
    }
    settle(
        World(
            processes=2, distributed_type="DEEPSPEED", device="cpu", batch=Batch(1, 1, 2), source="this test"
        )
    )
    import deepspeed

    from sft.training import gathering

    gathering.BATCH_BYTES = batch_bytes
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meeting", rank=index, world_size=2
    )
    torch.manual_seed(0)
    model = Tied()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.1),
        config={
            "train_batch_size": 2,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": persistent},
        },
        dist_init_required=False,
    )
    found: list[Any] = []
    for _ in range(2):  # what is gathered must not stay in the way of the next step
        engine.backward(engine(torch.arange(5) + index))
        engine.step()
        for excluded in (False, True):
            ours = gathering.consolidated(engine, exclude_frozen_parameters=excluded, memory=Arena().take)
            theirs = engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=excluded)
            found.append((ours, theirs))
    torch.save(found, f"{place}/found-{index}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("persistent", "batch_bytes"),
    [(0, 1), (0, 1 << 20), (50, 1 << 20)],
    ids=["singly", "together", "persistent"],
)
def test_it_is_what_deepspeed_gathers(persistent: int, batch_bytes: int, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path), persistent, batch_bytes), nprocs=2)
    found = torch.load(tmp_path / "found-0")
    assert torch.load(tmp_path / "found-1") == [(None, None)] * 4
    for ours, theirs in found:
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert ours["head.weight"] is ours["embedding.weight"]
    whole, trained = found[0][0], found[1][0]
    assert set(whole) - set(trained) == {"frozen.weight", "frozen.bias"}
    assert "kept" in trained
    assert "passing" not in whole
    assert not torch.equal(found[0][0]["trained.weight"], found[2][0]["trained.weight"])
