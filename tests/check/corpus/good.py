"""Good setups, as people have them: recipes, stock configurations of TRL, data of every shape, adapters of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.plan.hardware import Hardware
from tests.check.corpus.bench import Bench
from tests.check.corpus.of_run_place import checkpoint
from tests.check.corpus.spoil import shard

RECIPES = Path(__file__).parents[3] / "recipes"
OF_THE_SETUP = (
    "combinations", "paths", "model_files", "model_kind", "model_weights", "tokenizer", "adapter", "schedule",
    "unusual", "output", "continuing", "homes", "hub_name", "packages", "rows", "room", "precision",
)  # fmt: skip
"""The checks of what is set up. The others look at the machine, and the tests' own is what it is."""


@dataclass(frozen=True, slots=True)
class Good:
    """A setup in which nothing may be found but notes."""

    name: str
    build: Callable[[Bench], object]


def machine(gpus: int) -> Hardware:
    """Describe a node with this many GPUs of 80 GB."""
    return Hardware(("NVIDIA H100 80GB HBM3",) * gpus, (80 * 10**9,) * gpus, 16, 256 * 10**9)


def recipe(name: str, strategy: str, gpus: int) -> Good:
    """A recipe as it stands, but for the model and the data, under a strategy that suits it."""

    def build(bench: Bench) -> None:
        bench.text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
        own = {
            "model_name_or_path": bench.model,
            "dataset_name": bench.data,
            "output_dir": bench.output,
            "data_cache": bench.directory / "prepared",
            "max_length": 256,
            "strategy": strategy,
        }
        bench.words = [word for key, value in own.items() for word in (f"--{key}", str(value))]
        bench.hardware = machine(gpus)

    return Good(f"recipe {name} under {strategy} on {gpus}", build)


def setup(name: str, *, gpus: int = 0, rows: list[dict[str, Any]] | None = None, **settings: Any) -> Good:
    """The bench's own setup with some keys set; None takes one away."""

    def build(bench: Bench) -> None:
        bench.settings |= settings
        bench.settings = {key: value for key, value in bench.settings.items() if value is not None}
        if rows is not None:
            bench.data.write_text("".join(json.dumps(row) + "\n" for row in rows * 10), encoding="utf-8")
        if gpus:
            bench.hardware = machine(gpus)

    return Good(name, build)


def sharded(bench: Bench) -> None:
    shard(bench.model, 3)


def on_the_way(bench: Bench) -> None:
    checkpoint(bench)


def template_of_my_own(bench: Bench) -> None:
    template = bench.directory / "chatml.jinja"
    template.write_text((bench.model / "chat_template.jinja").read_text(encoding="utf-8"), encoding="utf-8")
    bench.settings["chat_template_path"] = str(template)


def resumed_from_elsewhere(bench: Bench) -> None:
    bench.settings["resume_from_checkpoint"] = str(checkpoint(bench))
    bench.settings["output_dir"] = str(bench.directory / "other")


SUITS = {
    "full": ("single 1", "ddp 2", "zero1 2", "zero2 4", "zero3 8", "fsdp2 2"),
    "lora": ("single 1", "ddp 4", "zero2 2", "zero3 2", "fsdp2 2"),
    "qlora": ("single 1", "ddp 2", "zero2 2"),
    "zero3": ("zero3 2", "zero3_offload 2"),
    "fsdp_qlora": ("fsdp2 2", "fsdp2_offload 4"),
    "galore": ("single 1", "ddp 2"),
    "neftune": ("single 1", "ddp 2", "zero3 2"),
    "packing": ("single 1", "ddp 2", "zero2 2", "fsdp2 2"),
}
TEXT = [{"text": "It is forty-two, and it holds."}]
PROMPTS = [{"prompt": "What is it?", "completion": "It is forty-two."}]
CHATS = [
    {
        "prompt": [{"role": "user", "content": "What?"}],
        "completion": [{"role": "assistant", "content": "This."}],
    }
]
SHARES = [{"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]}]
ALPACA = [{"instruction": "Add.", "input": "1 and 2", "output": "3"}]
LORA = {"use_peft": True, "lora_r": 16, "lora_alpha": 32, "learning_rate": 2e-4}
QLORA = {**LORA, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "dtype": "bfloat16"}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 10, "validation_fraction": 0.1}

GOOD = (
    *(
        recipe(name, strategy, int(gpus))
        for name, suited in SUITS.items()
        for strategy, gpus in map(str.split, suited)
    ),
    setup("nothing but what must be named"),
    setup("TRL's own defaults", assistant_only_loss=False, max_length=None, per_device_train_batch_size=None),
    setup(
        "full fine-tuning by name",
        learning_rate=2e-5,
        num_train_epochs=1,
        bf16=True,
        gradient_checkpointing=True,
    ),
    setup("a small learning rate", learning_rate=1e-7),
    setup(
        "cosine with a floor",
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
    ),
    setup("warm-up as a share", warmup_steps=0.03),
    setup("warm-up in steps", warmup_steps=10, max_steps=100),
    setup("packing, best fit", packing=True, gpus=1),
    setup("evaluation, the best kept", load_best_model_at_end=True, save_steps=20, **EVALUATED),
    setup("evaluation by epochs", eval_strategy="epoch", save_strategy="epoch", validation_fraction=0.1),
    setup(
        "evaluation by shares",
        eval_strategy="steps",
        eval_steps=0.1,
        save_steps=0.2,
        validation_fraction=0.1,
        load_best_model_at_end=True,
    ),
    setup("early stopping", early_stopping_patience=3, metric_for_best_model="eval_loss", **EVALUATED),
    setup("two checkpoints kept", save_steps=10, save_total_limit=2),
    setup("saves that come once, at the end", save_steps=5000),
    setup("plain text", rows=TEXT, assistant_only_loss=None),
    setup("prompt and completion", rows=PROMPTS, assistant_only_loss=None),
    setup("prompt and completion as chats", rows=CHATS),
    setup("ShareGPT", rows=SHARES),
    setup("alpaca", rows=ALPACA, assistant_only_loss=None),
    setup("the user's turns too, by name", assistant_only_loss=False),
    setup("LoRA, PEFT's own targets", **LORA),
    setup("LoRA on every layer", lora_target_modules="all-linear", **LORA),
    setup("LoRA on every layer, as a list", lora_target_modules=["all-linear"], **LORA),
    setup("LoRA on attention", lora_target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], **LORA),
    setup("LoRA on one module", lora_target_modules=["down_proj"], **LORA),
    setup("LoRA by a pattern", lora_target_modules=r".*\.mlp\.(up|down)_proj", **LORA),
    setup(
        "LoRA by a pattern with its prefix",
        lora_target_modules=r"model\.layers\.\d+\.self_attn\.q_proj",
        **LORA,
    ),
    setup("LoRA by the ends of paths", lora_target_modules=["self_attn.q_proj", "mlp.up_proj"], **LORA),
    setup("LoRA with embeddings and head", lora_modules_to_save=["embed_tokens", "lm_head"], **LORA),
    setup("DoRA", use_dora=True, **LORA),
    setup("rank-stabilised LoRA", use_rslora=True, **LORA),
    setup("QLoRA", gpus=1, **QLORA),
    setup("QLoRA with nested quantisation", gpus=2, use_bnb_nested_quant=True, **QLORA),
    setup("8-bit optimizer", gpus=1, optim="adamw_8bit"),
    setup("SGD, with its own scale of rates", optim="sgd", learning_rate=0.1),
    setup("Adafactor", optim="adafactor", learning_rate=1e-3),
    setup("NEFTune", neftune_noise_alpha=5),
    setup("two CPU processes", launch={"device": "cpu", "processes_per_node": 2}),
    setup("a batch by its total", total_train_batch_size=16, per_device_train_batch_size=None),
    setup("a push to the Hub", push_to_hub=True, hub_model_id="org/chat-lora"),
    setup("an eos_token of the vocabulary", eos_token="<|im_end|>", pad_token="<|endoftext|>"),
    setup("a run that merges", merge=True, **LORA),
    Good("weights in three shards", sharded),
    Good("a run that goes on", on_the_way),
    Good("a run that goes on from elsewhere", resumed_from_elsewhere),
    Good("a template of my own, in tokens of the vocabulary", template_of_my_own),
)
