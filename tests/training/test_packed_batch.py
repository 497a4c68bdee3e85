"""Packed rows that are joined, and the same rows one at a time with accumulation, are the same training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sft.training import agreement
from tests.training.conftest import Train


def weights(trained: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trained.trainer.model.parameters()])


@pytest.mark.parametrize("packed", [{"packing": True}, {"padding_free": True, "max_length": None}], ids=str)
def test_rows_joined_or_one_at_a_time_train_the_same(
    train: Train, monkeypatch: pytest.MonkeyPatch, packed: dict[str, Any]
) -> None:
    more = {**packed, "attn_implementation": "sdpa", "max_steps": 4, "seed": 7}
    singly = train(**more)
    assert singly.trainer.args.per_device_train_batch_size == 1
    assert singly.trainer.args.gradient_accumulation_steps == 4
    monkeypatch.setattr(agreement, "one_row_at_a_time", lambda config, batch: batch)
    joined = train(**more)
    assert joined.trainer.args.per_device_train_batch_size == 4
    assert len(singly.losses) == 4
    assert singly.losses == pytest.approx(joined.losses, abs=2e-5)
    assert torch.allclose(weights(singly), weights(joined), atol=1e-4)
    assert singly.trained_tokens == joined.trained_tokens
