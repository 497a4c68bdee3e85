"""Every strategy trains what one process trains.

{full, LoRA, QLoRA} x {single, ddp, zero1, zero2, zero3, zero3_offload, fsdp2} through the real `sft launch`, on
CPU with two processes: same rows, seed and rows a step, in float32 without dropout. FSDP2 runs between CPU
processes with the patch of sft/check/deep/fsdp_on_cpu, which shows the sharding logic, not FSDP2 on GPUs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.training.launching import FSDP_ON_CPU, Launched, launch, succeeded

TOLERANCE = 2e-3
"""Largest difference of a step's loss, in nats, between a strategy and one process. The sums of gradients are
taken in another order, and Adam magnifies that; what a lost rank or a doubled gradient does is a hundred times more
(seen by breaking it)."""
QLORA_TOLERANCE = 1e-2
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
METHODS: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 2e-3},
    "lora": {
        "learning_rate": 6e-2,
        "use_peft": True,
        "lora_dropout": 0.0,
        "lora_r": 8,
        "lora_target_modules": "all-linear",
    },
}

METHODS["qlora"] = {
    **METHODS["lora"],
    "learning_rate": 5e-3,
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    # FSDP2 shards only parameters that are stored in the type it computes in.
    "bnb_4bit_quant_storage": "float32",
}
PLAIN = ("full", "lora")
OWN_WAYS = {"lora": ("single", "zero3", "fsdp2"), "qlora": ("single", "zero3", "fsdp2")}
"""Where an adapter is sharded in a way of its own. The others treat it as they treat a model that is trained whole, and
only the exhaustive tier launches them."""


def pairs(methods: Sequence[str], strategies: Sequence[str]) -> list[Any]:
    """Pair methods with strategies; those that are like another are left to the exhaustive tier."""
    return [
        pytest.param(
            method, strategy, marks=[] if strategy in OWN_WAYS.get(method, strategies) else pytest.mark.slow
        )
        for method in methods
        for strategy in strategies
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    rows = tiny.chats(96)
    tiny.write_rows(directory / "train.jsonl", rows[:80])
    tiny.write_rows(directory / "test.jsonl", rows[80:])
    return directory


@pytest.fixture(scope="module")
def trained(
    tiny_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Launched]:
    """Launch a method under a strategy, once."""
    done: dict[tuple[str, str], Launched] = {}
    place = tmp_path_factory.mktemp("runs")
    (place / "witness.py").write_text(SHARD_WITNESS)

    def run(method: str, strategy: str) -> Launched:
        if (method, strategy) not in done:
            settings = {
                "model_name_or_path": str(tiny_model),
                "dataset_name": str(data),
                "assistant_only_loss": True,
                "bf16": False,
                "max_length": 128,
                "max_steps": 8,
                "logging_steps": 1,
                "eval_strategy": "steps",
                "eval_steps": 8,
                "save_strategy": "no",
                "lr_scheduler_type": "constant",
                "per_device_train_batch_size": 2,
                "per_device_eval_batch_size": 4,
                "total_train_batch_size": 8,
                "callbacks": [f"{place / 'witness.py'}:Witness"],
                **METHODS[method],
                "launch": {"strategy": strategy, "processes_per_node": 1 if strategy == "single" else 2},
            }
            environment = {"PYTHONPATH": str(FSDP_ON_CPU)} if strategy == "fsdp2" else None
            done[method, strategy] = launch(place / f"{method}-{strategy}", settings, environment=environment)
        return succeeded(done[method, strategy])

    return run


SHARD_WITNESS = """
import json, os
from transformers import TrainerCallback


class Witness(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **_):
        if state.global_step == 0 and state.is_world_process_zero:
            kinds = sorted({type(parameter).__name__ for parameter in model.parameters()})
            packed = [p for name, p in model.named_parameters() if name.endswith("proj.base_layer.weight")]
            held = [getattr(p, "ds_tensor", p) for p in packed]
            held = [p.to_local() if hasattr(p, "to_local") else p for p in held]
            quantized = sum(p.numel() * p.element_size() for p in held)
            local = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in model.parameters())
            with open(os.path.join(args.output_dir, "witness.json"), "w") as file:
                json.dump({"kinds": kinds, "local": local, "quantized_bytes": quantized, "all": sum(p.numel() for p in model.parameters())}, file)
"""
"""A callback of a user's own, given to every launch: it sees whether parameters really are sharded."""


def plain_eval_loss(output_dir: Path, model_path: Path, data: Path) -> float:
    """Score a saved result with transformers and PEFT alone: the mean loss of the answers' tokens."""
    import datasets
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(output_dir)
    if (output_dir / "adapter_config.json").exists():
        base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, output_dir)
    else:
        model = AutoModelForCausalLM.from_pretrained(output_dir, dtype=torch.float32)
    total, count = 0.0, 0
    for row in datasets.load_dataset(str(data))["test"]:
        tokens = tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        mask = torch.as_tensor(tokens["assistant_masks"]).bool().reshape(1, -1)
        labels = torch.where(mask, tokens["input_ids"], -100)
        kept = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += model(input_ids=tokens["input_ids"], labels=labels).loss.item() * kept
        count += kept
    return total / count


@pytest.mark.parametrize(("method", "strategy"), pairs(PLAIN, STRATEGIES))
def test_losses_agree_with_one_process(
    trained: Callable[[str, str], Launched], method: str, strategy: str
) -> None:
    single, sharded = trained(method, "single"), trained(method, strategy)
    assert len(single.losses) == 8
    assert single.losses[-1] < single.losses[0] - 0.3, "the run must learn, or the comparison says nothing"
    assert sharded.losses == pytest.approx(single.losses, abs=TOLERANCE)
    assert sharded.eval_losses == pytest.approx(single.eval_losses, abs=TOLERANCE)
    trained_tokens = [run.of_kind("log")[-1]["trained_tokens"] for run in (single, sharded)]
    assert trained_tokens[0] == trained_tokens[1]


@pytest.mark.parametrize(("method", "strategy"), pairs(PLAIN, ["single", *STRATEGIES]))
def test_saved_result_scores_the_same_in_plain_transformers(
    trained: Callable[[str, str], Launched], tiny_model: Path, data: Path, method: str, strategy: str
) -> None:
    run = trained(method, strategy)
    loss = plain_eval_loss(run.run.output_dir, tiny_model, data)
    assert loss == pytest.approx(run.eval_losses[-1], abs=TOLERANCE)


@pytest.mark.parametrize(("method", "strategy"), pairs(["qlora"], STRATEGIES))
def test_qlora_losses_agree_with_one_process(
    trained: Callable[[str, str], Launched], method: str, strategy: str
) -> None:
    """Small steps: TRL holds the adapter of a quantised base in bfloat16, whose gradients round coarsely.

    The losses of the first steps alone tell a lost rank: its rows would be missing from the mean.
    """
    single, sharded = trained(method, "single"), trained(method, strategy)
    assert "4-bit nf4" in single.of_kind("model")[0]["quantized"]
    assert max(single.losses) - min(single.losses) > 4 * QLORA_TOLERANCE
    assert sharded.losses == pytest.approx(single.losses, abs=QLORA_TOLERANCE)


@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_qlora_partitions_the_4_bit_weights(trained: Callable[[str, str], Launched], strategy: str) -> None:
    """Shown on CPU processes: each rank holds half of the packed bytes."""
    whole = json.loads((trained("qlora", "single").run.output_dir / "witness.json").read_text())
    witness = json.loads((trained("qlora", strategy).run.output_dir / "witness.json").read_text())
    assert whole["quantized_bytes"] > 0
    assert witness["quantized_bytes"] == pytest.approx(whole["quantized_bytes"] / 2, rel=0.02)


@pytest.mark.parametrize("method", PLAIN)
def test_fsdp2_really_shards(trained: Callable[[str, str], Launched], method: str) -> None:
    run = trained(method, "fsdp2")
    witness = json.loads((run.run.output_dir / "witness.json").read_text())
    assert witness["kinds"] == ["DTensor"]
    assert witness["local"] == pytest.approx(witness["all"] / 2, rel=0.01)


def test_zero3_really_shards(trained: Callable[[str, str], Launched]) -> None:
    witness = json.loads((trained("full", "zero3").run.output_dir / "witness.json").read_text())
    whole = trained("full", "single").of_kind("model")[0]["parameters"]
    assert witness["all"] < whole / 2, (
        "parameters above the persistence threshold must be empty between layers"
    )
