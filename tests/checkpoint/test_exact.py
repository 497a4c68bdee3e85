"""A resumed run is the run that was never interrupted: every loss and every weight, bit by bit.

With dropout, packing, accumulation and the end of an epoch behind the checkpoint, in an empty directory that was
given nothing but the checkpoint. FSDP2 runs between CPU processes with the patch of sft/check/deep/fsdp_on_cpu.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.check import disk
from sft.check.disk import bill_of
from sft.check.run import check_run
from sft.plan.weights import read_tensors
from tests.checkpoint import exact
from tests.checkpoint.exact import METHODS, SAVED, STEPS, STRATEGIES

FAST = {("full", "zero3")}
"""The others run in the exhaustive tier."""
CASES = [
    pytest.param(method, strategy, marks=() if (method, strategy) in FAST else pytest.mark.slow)
    for method in METHODS
    for strategy in STRATEGIES
]
TRAINABLE = {"full": 106_816, "lora": 8_192, "qlora": 8_192}
COPIES = {"single": 3, "ddp": 3, "zero1": 5, "zero2": 5, "zero3": 4, "fsdp2": 4}
"""The weights and Adam's two moments. DeepSpeed adds its master weights, and ZeRO-1 and 2 the weights as they are computed with;
FSDP2 saves the weights a second time, in the form that it loads. benchmarks/checkpoint.py measures a real size."""
TIED_BYTES = 140_000
"""The head that is tied to the embeddings: FSDP2's state holds it by itself, in both of its copies of the weights."""
FIXED_BYTES = 320_000
"""The tokenizer, configurations, random numbers, the trainer's state, a kilobyte for each of hundreds of tensors, and
DeepSpeed's scripts and bookkeeping. The frozen base of these runs is 427,264 bytes more."""


@pytest.mark.parametrize(("method", "strategy"), CASES)
def test_the_continued_run_equals_the_whole_one(
    method: str, strategy: str, tiny_model: Path, tmp_path: Path
) -> None:
    data = exact.write_data(tmp_path)
    run = exact.settings(tiny_model, data, method, strategy)
    twice = exact.run_twice(tmp_path, run, strategy)
    assert len(twice.whole.losses) == STEPS
    assert len(set(twice.whole.losses)) == STEPS
    assert twice.continued.losses == twice.whole.losses[SAVED:]
    assert exact.weights(twice.continued.run.output_dir) == exact.weights(twice.whole.run.output_dir)
    epochs = [event["epoch"] for event in twice.whole.of_kind("log") if "loss" in event]
    assert epochs[SAVED - 1] < 1 < epochs[-1]
    assert f"continuing from step {SAVED}: checkpoint-{SAVED}, " in twice.continued.stderr
    started = [
        event["run_id"] for launched in (twice.whole, twice.continued) for event in launched.of_kind("start")
    ]
    assert len(set(started)) == 1
    for count in ("trained_tokens", "num_tokens"):
        whole, continued = (
            [event[count] for event in launched.of_kind("log") if "loss" in event]
            for launched in (twice.whole, twice.continued)
        )
        assert continued == whole[SAVED:], count

    checkpoint = twice.whole.run.output_dir / f"checkpoint-{STEPS}"
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    tied = 2 * TIED_BYTES if (method, strategy) == ("full", "fsdp2") else 0
    assert size < TRAINABLE[method] * 4 * COPIES[strategy.removesuffix("_offload")] + tied + FIXED_BYTES
    # What `sft check` has said of its size, before the run.
    checked = check_run(twice.whole.run.run_yaml)
    beside = sum(path.stat().st_size for path in tiny_model.glob("*.json*"))
    said = bill_of(checked.loaded.config, checked.plan, read_tensors(tiny_model) or [], beside=beside)
    assert said.checkpoint_bytes - disk.BESIDE_BYTES <= size <= said.checkpoint_bytes + tied


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "more"), [("ddp", {"ddp_find_unused_parameters": True}), ("zero2", {})])
def test_more_than_two_ranks_are_exact_too(
    strategy: str, more: dict[str, bool], tiny_model: Path, tmp_path: Path
) -> None:
    # DDP as it is lays its buckets anew after the first step, and the sum of more than two depends on them.
    data = exact.write_data(tmp_path)
    run = exact.settings(tiny_model, data, "full", strategy, launch={"processes_per_node": 4}, **more)
    twice = exact.run_twice(tmp_path, run, strategy)
    assert twice.continued.losses == twice.whole.losses[SAVED:]
    assert exact.weights(twice.continued.run.output_dir) == exact.weights(twice.whole.run.output_dir)
