"""Each combination that cannot work is refused by name, and its nearest neighbour is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.config.kit import Strategy
from sft.config.loader import load_run
from sft.errors import Problem
from sft.plan.combinations import RULES, check_combinations
from sft.plan.plan import Plan

QLORA = {"use_peft": "true", "load_in_4bit": "true"}
INT8 = {"use_peft": "true", "load_in_8bit": "true"}
LORA = {"use_peft": "true"}
GALORE = {"optim": "galore_adamw", "optim_target_modules": "all-linear"}
DORA = {"use_dora": "true"}


def problems(
    settings: dict[str, str], strategy: str = "ddp", *, device: Any = "cpu", accumulation: int = 1
) -> list[Problem]:
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--use_cpu", "true", "--bf16", "true"]
    for key, value in settings.items():
        words += [f"--{key}", value]
    config = load_run(None, words, environment={"HOME": str(Path.home())}).config
    plan = Plan(
        strategy=Strategy(strategy),
        device=device,
        processes_per_node=1 if strategy == "single" else 2,
        micro_batch=1,
        accumulation=accumulation,
        mixed_precision=config.mixed_precision,
    )
    return check_combinations(config, plan)


REFUSED = [
    (
        QLORA,
        "fsdp2",
        "4-bit weights stored as uint8 are not sharded by fsdp2: every process would hold all of them",
        "load_in_4bit",
        "set bnb_4bit_quant_storage: bfloat16",
    ),
    (
        {**QLORA, "bnb_4bit_quant_storage": "float16"},
        "zero3",
        "zero3 casts weights to bfloat16, which garbles 4-bit weights that are stored as float16",
        "bnb_4bit_quant_storage",
        "set bnb_4bit_quant_storage: bfloat16",
    ),
    (
        INT8,
        "fsdp2",
        "8-bit weights cannot be sharded by fsdp2",
        "load_in_8bit",
        "set launch.strategy: zero3, which partitions them, or load_in_4bit: true with bnb_4bit_quant_storage",
    ),
    (
        {**QLORA, **DORA},
        "zero3",
        "DoRA on a quantised base cannot be sharded by zero3: its magnitudes are float32, its matrices bfloat16",
        "use_dora",
        "set use_dora: false, or launch.strategy: zero2",
    ),
    (
        {**INT8, **DORA},
        "ddp",
        "DoRA on 8-bit weights fails on CPU",
        "use_dora",
        "set load_in_4bit: true instead of 8",
    ),
    (
        {"lora_r": "8"},
        "ddp",
        "lora_r without use_peft: every weight would be trained",
        "lora_r",
        "set use_peft: true, or remove it",
    ),
    (
        {**LORA, "bnb_4bit_quant_storage": "bfloat16"},
        "ddp",
        "bnb_4bit_quant_storage has no effect: nothing is loaded in 4 bits",
        "bnb_4bit_quant_storage",
        "set load_in_4bit: true, or remove it",
    ),
    (
        {**LORA, "lora_target_modules": "q_proj,lm_head"},
        "ddp",
        "an adapter on lm_head would never be trained: the loss reads lm_head.weight itself",
        "lora_target_modules",
        "remove lm_head from it; lora_modules_to_save: [lm_head] trains the whole of it",
    ),
    (
        {**LORA, "lora_modules_to_save": "lm_head"},
        "fsdp2",
        "fsdp2 trains lm_head wrongly beside an adapter",
        "lora_modules_to_save",
        "set launch.strategy: zero3 or ddp",
    ),
    (
        {**LORA, "lora_task_type": "SEQ_CLS"},
        "ddp",
        "lora_task_type SEQ_CLS has no effect on training, which is of a causal language model",
        "lora_task_type",
        "set lora_task_type: CAUSAL_LM",
    ),
    (
        {"optim": "galore_adamw"},
        "ddp",
        "galore_adamw needs optim_target_modules",
        "optim",
        "set optim_target_modules: all-linear",
    ),
    (
        {"optim": "adamw_torch", "optim_target_modules": "all-linear"},
        "ddp",
        "optim_target_modules has no effect on adamw_torch",
        "optim_target_modules",
        "remove it, or set optim: galore_adamw",
    ),
    (
        {"optim": "adamw_torch", "optim_args": "rank=3"},
        "ddp",
        "optim_args has no effect on adamw_torch",
        "optim_args",
        "remove it; adam_beta1, adam_beta2, adam_epsilon and weight_decay are keys of their own",
    ),
    (
        GALORE,
        "zero2",
        "galore_adamw projects matrices, and zero2 gives the optimizer flat slices of them",
        "optim",
        "set launch.strategy: ddp; or fsdp2 with optim: galore_adamw",
    ),
    (
        {**GALORE, "optim": "apollo_adamw"},
        "fsdp2",
        "apollo_adamw cannot work on tensors that fsdp2 shards",
        "optim",
        "set optim: galore_adamw",
    ),
    (
        {**GALORE, "optim": "galore_adamw_layerwise"},
        "ddp",
        "galore_adamw_layerwise works in one process, not 2",
        "optim",
        "set optim: galore_adamw",
    ),
    (
        {**GALORE, **LORA},
        "ddp",
        "galore_adamw is for training every weight: on an adapter it projects matrices that are of low rank already",
        "optim",
        "remove optim, or set use_peft: false",
    ),
    (
        {"optim": "adamw_8bit"},
        "fsdp2",
        "adamw_8bit cannot work on tensors that fsdp2 shards",
        "optim",
        "set optim: adamw_torch, or launch.strategy: zero3",
    ),
    (
        {"optim": "adafactor"},
        "zero2",
        "adafactor has nothing to factor under zero2, which gives it flat slices: it would be another optimizer,"
        " with the memory of a full second moment",
        "optim",
        "set optim: adamw_8bit, or launch.strategy: ddp",
    ),
    (
        {**LORA, "gradient_checkpointing_kwargs": '{"use_reentrant": true}'},
        "ddp",
        "reentrant gradient checkpointing of an adapter fails under ddp",
        "gradient_checkpointing_kwargs",
        "set gradient_checkpointing_kwargs: {use_reentrant: false}",
    ),
    (
        {
            "save_only_model": "true",
            "load_best_model_at_end": "true",
            "eval_strategy": "steps",
            "metric_for_best_model": "eval_loss",
        },
        "zero3",
        "zero3 cannot load the best model from checkpoints that hold the model only",
        "save_only_model",
        "set save_only_model: false",
    ),
    (
        {"auto_find_batch_size": "true"},
        "zero3",
        "auto_find_batch_size does not work under zero3",
        "auto_find_batch_size",
        "remove it and set per_device_train_batch_size",
    ),
    (
        {"accelerator_config": '{"split_batches": true}'},
        "ddp",
        "split_batches would divide per_device_train_batch_size by 2 once more",
        "accelerator_config",
        "remove split_batches and set total_train_batch_size",
    ),
    (
        {"packing": "true", "packing_strategy": "wrapped"},
        "ddp",
        "wrapped packing lets tokens attend to the sample before their own",
        "packing_strategy",
        "set packing_strategy: bfd, or allow_sample_mixing: true if that is meant",
    ),
    (
        {"packing": "true", "max_length": "null"},
        "ddp",
        "packing needs max_length, the length of a packed row",
        "max_length",
        "set max_length: 1024",
    ),
    (
        {"padding_free": "true"},
        "ddp",
        "padding_free without packing cannot enforce max_length 1024",
        "padding_free",
        "set packing: true, or max_length: null",
    ),
    (
        {"save_strategy": "best"},
        "ddp",
        "save_strategy best without evaluation never saves",
        "save_strategy",
        "set eval_strategy: steps",
    ),
    (
        {"load_best_model_at_end": "true"},
        "ddp",
        "load_best_model_at_end needs save_strategy steps and eval_strategy no to be the same",
        "load_best_model_at_end",
        "set eval_strategy: steps",
    ),
    (
        {"early_stopping_patience": "2", "eval_strategy": "steps"},
        "ddp",
        "early stopping needs to know what is better",
        "early_stopping_patience",
        "set metric_for_best_model: eval_loss",
    ),
    (
        {"bf16": "false", "fp16": "true"},
        "ddp",
        "fp16 needs a GPU",
        "fp16",
        "set bf16: true, or bf16: false for float32",
    ),
    (
        {"dataloader_persistent_workers": "true"},
        "ddp",
        "dataloader_persistent_workers needs workers",
        "dataloader_persistent_workers",
        "set dataloader_num_workers: 2, or remove it",
    ),
]


@pytest.mark.parametrize(
    ("settings", "strategy", "what", "key", "fix"), REFUSED, ids=lambda value: str(value)[:40]
)
def test_refused_with_the_reason_and_the_nearest_that_works(
    settings: dict[str, str], strategy: str, what: str, key: str, fix: str
) -> None:
    assert problems(settings, strategy) == [Problem(what, key, fix)]


@pytest.mark.parametrize("key", ["fsdp", "deepspeed"])
def test_the_trainers_own_launcher_keys_are_refused(key: str) -> None:
    config = load_run(None, ["--model_name_or_path", "m", "--dataset_name", "d"], environment={}).config
    training = config.training.model_copy(update={key: "full_shard"})
    plan = Plan(strategy=Strategy.DDP, device="gpu", processes_per_node=2, micro_batch=1, accumulation=1)
    assert check_combinations(config.model_copy(update={"training": training}), plan) == [
        Problem(
            f"{key} would contradict the accelerate file or do nothing",
            key,
            "remove it and set launch.strategy, or launch.accelerate_config for a file of your own",
        )
    ]


WORKS: list[tuple[dict[str, str], str]] = [
    ({}, "single"),
    *(({}, strategy.value) for strategy in Strategy),
    *((LORA, strategy.value) for strategy in Strategy),
    *((QLORA, strategy) for strategy in ("single", "ddp", "zero1", "zero2", "zero3", "zero3_offload")),
    *((INT8, strategy) for strategy in ("single", "ddp", "zero1", "zero2", "zero3", "zero3_offload")),
    ({**QLORA, "bnb_4bit_quant_storage": "bfloat16"}, "fsdp2"),
    ({**QLORA, "bnb_4bit_quant_storage": "float32"}, "ddp"),
    ({**QLORA, "bnb_4bit_quant_storage": "float32", "bf16": "false"}, "fsdp2"),
    ({**QLORA, **DORA}, "zero2"),
    ({**LORA, **DORA}, "fsdp2"),
    (GALORE, "ddp"),
    (GALORE, "fsdp2"),
    ({**GALORE, "optim": "apollo_adamw"}, "ddp"),
    ({**GALORE, "optim": "galore_adamw_layerwise"}, "single"),
    ({"optim": "adamw_8bit"}, "zero3"),
    ({"optim": "adafactor"}, "ddp"),
    ({"gradient_checkpointing_kwargs": '{"use_reentrant": true}'}, "ddp"),
    ({**LORA, "gradient_checkpointing_kwargs": '{"use_reentrant": true}'}, "zero3"),
    ({"packing": "true", "packing_strategy": "wrapped", "allow_sample_mixing": "true"}, "ddp"),
    ({"packing": "true", "attn_implementation": "eager"}, "ddp"),
    ({"padding_free": "true", "max_length": "null"}, "ddp"),
    ({"save_strategy": "best", "eval_strategy": "steps", "metric_for_best_model": "eval_loss"}, "ddp"),
    ({"neftune_noise_alpha": "5", "use_peft": "true"}, "zero3"),
    ({**LORA, "lora_modules_to_save": "lm_head"}, "zero3"),
]


@pytest.mark.parametrize(("settings", "strategy"), WORKS, ids=lambda value: str(value)[:60])
def test_what_was_seen_to_work_is_let_through(settings: dict[str, str], strategy: str) -> None:
    assert problems(settings, strategy) == []


def test_layerwise_optimizers_do_not_accumulate() -> None:
    settings = {**GALORE, "optim": "galore_adamw_layerwise"}
    assert problems(settings, "single", accumulation=4) == [
        Problem(
            "galore_adamw_layerwise updates in the backward pass, so gradients cannot accumulate over 4 steps",
            "optim",
            "set optim: galore_adamw, or gradient_accumulation_steps: 1",
        )
    ]


def test_a_gpu_takes_what_a_cpu_does_not() -> None:
    assert problems({"activation_offloading": "true"}, "ddp", device="gpu") == []
    assert [problem.what for problem in problems({"activation_offloading": "true"})] == [
        "activation_offloading needs a GPU"
    ]


def test_all_problems_come_out_together() -> None:
    found = problems({**GALORE, "packing": "true", "packing_strategy": "wrapped"}, "zero3")
    assert [problem.where for problem in found] == ["optim", "packing_strategy"]


def test_every_rule_says_how_it_was_found() -> None:
    assert [rule.__name__ for rule in RULES if not rule.__doc__] == []
