"""What benchmarks/topics.py measures and has computed: the ways to train, the small model, its rows and run files."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDE = Path(__file__).resolve().with_name("topics_side.py")
"""The callback of every launch."""
LENGTH, ROWS = 256, 2
"""Tokens of a row, and rows of an optimizer step, over all processes."""
BUCKET = 1_000_000
"""Numbers in a bucket of ZeRO-1 and 2: DeepSpeed's default, 2 GB each, would hide all else of so small a model."""
LORA = {"use_peft": True, "lora_target_modules": "all-linear", "lora_r": 16}
FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
GALORE = {"optim": "galore_adamw", "optim_target_modules": ["self_attn", "mlp"]}
SHORT_ROWS = {"total_train_batch_size": 4, "per_device_train_batch_size": 1}
LONG_ROW = {
    "max_length": 4 * LENGTH,
    "total_train_batch_size": 1,
    "per_device_train_batch_size": 1,
    "gradient_checkpointing": False,  # or no more than one layer's attention would be held
}


@dataclass(frozen=True)
class Case:
    """One way to train, and the way that it is set beside."""

    name: str
    settings: Mapping[str, Any]
    strategy: str = "single"
    base: str = "full"
    data: str = "long"

    @property
    def processes(self) -> int:
        """Two, but for what runs in one."""
        return 1 if self.strategy == "single" else 2


SHARDED = ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
CASES = (
    Case("full", {}),
    Case("LoRA", LORA),
    Case("QLoRA", {**LORA, **FOUR_BITS}),
    *(Case(name, {}, name) for name in SHARDED),
    Case("GaLore", {**GALORE, "optim_args": "rank=64,update_proj_gap=200,scale=0.25"}),
    Case("NEFTune", {"neftune_noise_alpha": 5}),
    Case("eager", {**LONG_ROW, "attn_implementation": "eager"}, base="eager"),
    Case("SDPA", {**LONG_ROW, "attn_implementation": "sdpa"}, base="eager"),
    Case("padded", {**SHORT_ROWS, "per_device_train_batch_size": 4}, base="padded", data="short"),
    Case("packing", {**SHORT_ROWS, "packing": True}, base="padded", data="short"),
)
NAMES = tuple(case.name for case in CASES)

LARGE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
"""The shape of Llama-3.1-8B, for which `sft plan` is asked."""
GPU = "h100-80g"
PLANNED = {
    "max_length": 4096,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "report_to": "none",
}
"""What all plans have. Two micro-batches a step: with one, ZeRO-1 and 2 hold the same."""
HALF = {"dtype": "bfloat16"}
LONG = {**LORA, **HALF, "max_length": 32768}
COMPUTED: dict[str, tuple[dict[str, Any], int]] = {
    "full": ({"dtype": "float32"}, 1),
    "full in bfloat16": (HALF, 1),
    "LoRA": ({**LORA, **HALF}, 1),
    "QLoRA": ({**LORA, **FOUR_BITS, **HALF}, 1),
    **{name: ({"dtype": "float32", "launch": {"strategy": name}}, 8) for name in SHARDED},
    "GaLore": ({**GALORE, **HALF, "optim_args": "rank=128,update_proj_gap=200,scale=0.25"}, 1),
    "eager": ({**LONG, "attn_implementation": "eager"}, 1),
    "SDPA": ({**LONG, "attn_implementation": "sdpa"}, 1),
    "FlashAttention": ({**LONG, "attn_implementation": "flash_attention_2"}, 1),
}
"""Name -> settings beside those of every plan, and how many GPUs."""


def write_model(place: Path, layers: int) -> int:
    """Write the Llama and the tests' tokenizer; return how many parameters it has."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests import tiny

    tiny.write_tiny_model(place)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=4 * LENGTH,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(place)
    return int(model.num_parameters())


def write_data(place: Path) -> None:
    """Write rows that fill every length that is asked for, and rows whose lengths scatter as those of chats do."""
    dice = random.Random(0)
    lengths = {"long": [300] * 64, "short": [round(dice.lognormvariate(1.8, 0.7)) + 1 for _ in range(600)]}
    for name, counts in lengths.items():
        rows = [
            {"text": " ".join(f"number {row * word % 997} about threads and files" for word in range(count))}
            for row, count in enumerate(counts)
        ]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def launch_of(case: Case, place: Path) -> dict[str, Any]:
    """Return how a case is launched; by its strategy alone, but for buckets that suit so small a model."""
    arranged = {"device": "cpu", "processes_per_node": case.processes}
    if case.strategy not in ("zero1", "zero2"):
        return {**arranged, "strategy": case.strategy}
    from sft.config.kit import Strategy
    from sft.launch.accelerate_file import deepspeed_settings, render
    from sft.plan.arrangement import Arrangement

    arrangement = Arrangement(strategy=Strategy(case.strategy), device="cpu", processes_per_node=2)
    settings = deepspeed_settings(arrangement)
    settings["zero_optimization"] |= {"reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    files = render(
        arrangement,
        command="benchmarks/topics.py",
        deepspeed_path=str(place / f"{case.strategy}.json"),
        deepspeed=settings,
    )
    (place / f"{case.strategy}.json").write_text(files.deepspeed_json or "")
    (place / f"{case.strategy}.yaml").write_text(files.accelerate_yaml)
    return {**arranged, "accelerate_config": str(place / f"{case.strategy}.yaml")}


def settings_of(case: Case, place: Path, steps: int) -> dict[str, Any]:
    """Return the run file of a case."""
    return {
        "model_name_or_path": str(place / "model"),
        "dataset_name": str(place / f"{case.data}.jsonl"),
        "data_cache": str(place / "cache"),
        "max_length": LENGTH,
        "max_cut_answers": 1,
        "total_train_batch_size": ROWS,
        "per_device_train_batch_size": ROWS // case.processes,
        "dtype": "float32",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": True,
        "learning_rate": 1e-5,
        "max_steps": steps,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": steps,
        "report_to": "none",
        "callbacks": [f"{SIDE}:Count"],
        "launch": launch_of(case, place),
        **case.settings,
    }
