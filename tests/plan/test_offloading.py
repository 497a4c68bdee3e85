"""Activations that wait in host memory: what leaves the device, what does not, and what comes back."""

from __future__ import annotations

import dataclasses

from sft.plan.memory.job import Job
from sft.plan.memory.ledger import Buffer, Ledger
from sft.plan.memory.offloading import STASHED, Away, Offloading
from sft.plan.memory.step import held_by
from sft.plan.read_shape import read_shape
from tests.plan.test_shape import LLAMA_8B


def test_large_buffers_are_sent_away_and_the_last_ones_stay_a_while() -> None:
    device, offloading = Ledger(), Offloading()
    kept = [offloading.keep(Buffer(device, "activations", 2048)) for _ in range(STASHED + 3)]
    assert all(isinstance(one, Away) for one in kept)
    assert device.total == STASHED * 2048
    assert offloading.host.total == (STASHED + 3) * 2048
    offloading.end_backward()
    kept.clear()
    assert (device.total, offloading.host.total) == (0, 0)
    assert offloading.host.peak == (STASHED + 3) * 2048


def test_small_ones_and_those_just_sent_stay() -> None:
    device, offloading = Ledger(), Offloading()
    small, large = Buffer(device, "activations", 1000), Buffer(device, "activations", 2048)
    assert offloading.keep(small) is small
    assert isinstance(offloading.keep(large), Away)
    assert offloading.keep(large) is large


def test_inputs_of_layers_that_are_computed_again_wait_in_host_memory() -> None:
    shape = read_shape(LLAMA_8B, None)
    assert shape is not None
    job = Job(device="gpu", rows=1, length=4096, weight_width=2, autocast=2, rank=16, targets="all-linear")
    there, away = (
        held_by(shape, dataclasses.replace(job, offloads_activations=offloads)) for offloads in (False, True)
    )
    # The input of each of 32 layers: 4,096 positions x 4,096 numbers x 2 bytes.
    inputs = 32 * 4096 * 4096 * 2
    assert there.host == 0
    assert abs(away.host - inputs) < inputs / 4
    assert there.peak - away.peak > inputs / 2
