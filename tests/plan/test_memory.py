"""The bill of memory is what real training steps hold: states to the byte, the whole within a few percent.

Tensors are counted as they live and die in three real steps on the CPU (tests/plan/live_bytes.py), and the bill is made from
config.json, the headers of the weights and the run file alone. docs/memory.md has all figures, and where they were measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sft.check.place import model_shape
from sft.plan.hardware import Hardware
from sft.plan.memory.estimate import Estimate, estimate
from sft.plan.plan import make_plan
from tests.plan import memory_cases
from tests.plan.measured import Measured, measure
from tests.training import here

OTHERS = memory_cases.other_ways()
CASES = {**memory_cases.cases(), **OTHERS}
FEW = [name for name in CASES if name[:3] in ("000", "012", "022", "028", "029", "040", "086")] + [
    "other-llama-qlora",
    "other-llama-galore",
    "other-qwen3-moe-lora-experts-again",
    "other-llama-smoothed",
]
# Layer by layer, each weight has an optimizer of its own, whose state the counter does not find.
UNSEEN = "other-llama-galore-layerwise"
MANY = [
    *[name for name in CASES if name not in OTHERS][1::4],
    *(name for name in OTHERS if name != UNSEEN),
]
WORST, MEDIAN = 0.03, 0.01
"""What the whole may be off by. The states are not off at all."""
NO_GPU = Hardware((), (), 2, 16 << 30)


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A directory that holds the rows, and the models as they are asked for."""
    directory = tmp_path_factory.mktemp("memory")
    memory_cases.write_rows(directory / "rows.jsonl")
    (directory / "tokenizer").symlink_to(tiny_model)
    return directory


def settings_of(case: Mapping[str, Any], parts: Path) -> dict[str, Any]:
    """Return the run file of a case; its model is written if it is not there."""
    settings = dict(case)
    name = settings.pop("model")
    model = memory_cases.write_model(name, parts / "models" / name, parts / "tokenizer")
    return {
        "model_name_or_path": str(model),
        "dataset_name": str(parts / "rows.jsonl"),
        "data_cache": str(parts / "cache"),
        **settings,
    }


def predicted(directory: Path, settings: Mapping[str, Any]) -> Estimate:
    """Make the bill of a run file."""
    loaded = here.read_settings(directory, settings)
    shape = model_shape(loaded.config)
    assert shape is not None
    return estimate(loaded.config, make_plan(loaded, NO_GPU), shape, None)


def compare(bill: Estimate, seen: Measured) -> float:
    """Hold a bill against what was measured; return what the whole is off by, as a share of what was measured."""
    held = bill.held
    assert (held.gradients, held.optimizer) == (seen.gradients, seen.optimizer)
    # Gemma keeps the root of its hidden size as a buffer of one number.
    assert 0 <= seen.weights - held.weights <= 4
    return held.peak / seen.peak - 1


@pytest.mark.parametrize("name", FEW)
def test_a_bill_is_what_a_step_holds(name: str, parts: Path, tmp_path: Path) -> None:
    settings = settings_of(CASES[name], parts)
    off = compare(predicted(tmp_path / "planned", settings), measure(tmp_path / "measured", settings))
    assert abs(off) < WORST


@pytest.mark.slow
def test_bills_of_many_shapes_and_settings_are_what_steps_hold(parts: Path, tmp_path: Path) -> None:
    off = {}
    for name in MANY:
        settings = settings_of(CASES[name], parts)
        seen = measure(tmp_path / name, settings)
        off[name] = compare(predicted(tmp_path / f"{name}-planned", settings), seen)
    wrong = sorted(map(abs, off.values()))
    assert wrong[len(wrong) // 2] < MEDIAN, off
    assert wrong[-1] < WORST, off
