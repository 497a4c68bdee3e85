"""Train a few steps of a run for real, and measure the bytes that it holds. By one process, or by several:

python -m tests.plan.measured CASES.json RESULTS.json
accelerate launch --config_file zero2.yaml -m tests.plan.measured CASES.json RESULTS.json
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tests.plan.live_bytes import LiveBytes
from tests.training import here

STEPS = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run held.

    Attributes:
        weights: bytes of the model's parameters and buffers on this rank, between steps.
        gradients: bytes of `.grad` before the optimizer's step.
        optimizer: bytes of the optimizer's state.
        peak: of the tensors alive in the steps after the first one, and `first` in the first one.
        made_by: operator -> bytes that were alive of its outputs at the peak.
    """

    weights: int
    gradients: int
    optimizer: int
    peak: int
    first: int
    made_by: dict[str, int]


class _Watch(TrainerCallback):
    def __init__(self, live: LiveBytes) -> None:
        self.live = live
        self.first = self.gradients = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        grads = [p.grad for p in rest["model"].parameters() if p.grad is not None]
        self.gradients = sum(_bytes(grad) for grad in grads)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == 1:
            self.first = self.live.peak
            self.live.reset_peak()


def _bytes(tensor: Any) -> int:
    tensor = getattr(tensor, "_local_tensor", tensor)
    return int(tensor.untyped_storage().nbytes())


def _distinct(tensors: Any) -> int:
    found = {}
    for tensor in tensors:
        tensor = getattr(tensor, "_local_tensor", tensor)
        found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    return sum(found.values())


def _state_tensors(optimizer: Any) -> list[torch.Tensor]:
    """List what an optimizer keeps; GaLore's and APOLLO's projections are objects that hold a matrix."""
    inner = getattr(optimizer, "optimizer", optimizer)
    kept = [value for state in inner.state.values() for value in state.values()]
    kept = [getattr(value, "ortho_matrix", value) for value in kept]
    return [value for value in kept if isinstance(value, torch.Tensor)]


def measure(directory: Path, settings: Mapping[str, Any]) -> Measured:
    """Train `STEPS` steps of a run in this process."""
    import sft.training.trainer

    live = LiveBytes(resizes="WORLD_SIZE" in os.environ)
    watch = _Watch(live)
    original = sft.training.trainer.CountingTrainer.continue_from

    def continue_from(self: Any, resume: Any) -> None:
        self.add_callback(watch)
        for tensor in _all_of(self.model):
            live.show(tensor, "model")
        with live:
            original(self, resume)

    sft.training.trainer.CountingTrainer.continue_from = continue_from
    try:
        done = here.train_here(
            directory, {"max_steps": STEPS, "save_strategy": "no", "report_to": "none", **settings}
        )
    finally:
        sft.training.trainer.CountingTrainer.continue_from = original
    model = done.trainer.model
    return Measured(
        weights=_distinct(_all_of(model)),
        gradients=watch.gradients,
        optimizer=_distinct(_state_tensors(done.trainer.optimizer)),
        peak=live.peak,
        first=watch.first,
        made_by=dict(live.at_peak.most_common(40)),
    )


def _all_of(model: Any) -> list[torch.Tensor]:
    """List what a model holds on this rank: under ZeRO-3 a parameter is empty, and its shard lies beside it."""
    found = [*model.parameters(), *model.buffers()]
    shards = [p.ds_tensor for p in found if getattr(p, "ds_tensor", None) is not None]
    return [*found, *shards, *(tensor for p in found for tensor in _scales(getattr(p, "quant_state", None)))]


def _scales(state: Any) -> list[Any]:
    """List what bitsandbytes keeps beside a quantised matrix."""
    if state is None:
        return []
    nested = [state.offset, *_scales(state.state2)] if state.nested else []
    return [state.absmax, state.code, *nested]


def main() -> None:
    """Measure every case of a file, one after the other."""
    cases, results, place = json.loads(Path(sys.argv[1]).read_text()), {}, Path(sys.argv[2])
    if "RANK" in os.environ:
        place = place.with_suffix(f".{os.environ['RANK']}.json")
        launched = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
        forget, here.forget_accelerate = (
            here.forget_accelerate,
            lambda: (forget(), os.environ.update(launched)),
        )
    for index, (name, case) in enumerate(cases.items()):
        if "RANK" in os.environ:
            # Each run makes a process group of its own, which must not find the keys of the one before.
            os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
            os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + index + 1)
        try:
            found = measure(Path(case.pop("directory")), case)
        except Exception as failure:  # the others are worth measuring all the same
            traceback.print_exc()
            results[name] = {"failed": f"{type(failure).__name__}: {failure}"}
        else:
            results[name] = {key: getattr(found, key) for key in found.__slots__}
        place.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
