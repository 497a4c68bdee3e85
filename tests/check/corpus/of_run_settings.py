"""Broken setups: what the run file says, of itself, of the adapter, of the steps, and of what runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.check.corpus.bench import Bench, Broken

QLORA = {"use_peft": True, "load_in_4bit": True, "dtype": "bfloat16"}
EVALUATED = {"eval_strategy": "steps", "validation_fraction": 0.1}


def settings(**changes: Any) -> Callable[[Bench], object]:
    """Set keys of the run file; `launch` takes the place of the whole group."""
    return lambda bench: bench.settings.update(changes)


def on(strategy: str, processes: int = 2, **changes: Any) -> Callable[[Bench], object]:
    """Run on CPU processes under a strategy."""
    launch = {"device": "cpu", "strategy": strategy, "processes_per_node": processes}
    return settings(launch=launch, **changes)


def text(change: Callable[[str], str]) -> Callable[[Bench], object]:
    """Write the run file as YAML text, spoiled."""

    def build(bench: Bench) -> None:
        lines = [f"{key}: {json.dumps(value)}" for key, value in bench.settings.items()]
        bench.text = change("\n".join(lines) + "\n")

    return build


def deepspeed_file(bench: Bench) -> None:
    file = bench.directory / "ds.json"
    values = {
        "train_batch_size": 8,
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": "auto"},
    }
    file.write_text(json.dumps(values))
    launch = {"device": "cpu", "processes_per_node": 2, "accelerate_config": str(file)}
    bench.settings |= {"launch": launch}


def other_family(bench: Bench) -> None:
    """A type that PEFT has no targets for."""
    bench.settings |= {"use_peft": True}
    bench.edit(
        "config.json", lambda one: one.update(model_type="granite", architectures=["GraniteForCausalLM"])
    )


BROKEN = (
    Broken(
        "a key with a slip of the pen",
        "https://github.com/unslothai/unsloth/pull/10452",
        "did you mean learning_rate?",
        "",
        settings(lerning_rate=2e-4),
    ),
    Broken(
        "a learning rate that is no number",
        "https://github.com/hiyouga/LlamaFactory/issues/4014",
        "learning_rate",
        "",
        settings(learning_rate="2e-4 # for LoRA"),
    ),
    Broken(
        "a key that stands twice",
        "https://yaml.org/spec/1.2.2/#3213-node-comparison",
        "max_length",
        "",
        text(lambda lines: lines + "max_length: 64\n"),
    ),
    Broken(
        "a batch that the processes do not divide",
        "https://github.com/deepspeedai/DeepSpeed/issues/3982",
        "total_train_batch_size 9 is not a multiple of 4",
        "plan",
        on("ddp", total_train_batch_size=9),
    ),
    Broken(
        "a DeepSpeed file with another batch than the run's",
        "https://github.com/deepspeedai/DeepSpeed/issues/6914",
        "train_batch_size 8 in the file is not the run's rows a step",
        "plan",
        deepspeed_file,
    ),
    Broken(
        "an accelerate file that is not there",
        "https://github.com/huggingface/accelerate/issues/1073",
        "is neither a file nor a name that TRL knows",
        "plan",
        settings(launch={"device": "cpu", "accelerate_config": "zero3_of_mine.yaml"}),
    ),
    Broken(
        "4-bit weights that FSDP does not shard",
        "https://github.com/huggingface/accelerate/issues/3983",
        "4-bit weights stored as uint8 are not sharded by fsdp2",
        "combinations",
        on("fsdp2", **QLORA),
    ),
    Broken(
        "8-bit weights under FSDP",
        "https://github.com/huggingface/peft/issues/2833",
        "8-bit weights cannot be sharded by fsdp2",
        "combinations",
        on("fsdp2", use_peft=True, load_in_8bit=True, dtype="bfloat16"),
    ),
    Broken(
        "GaLore under ZeRO",
        "https://github.com/hiyouga/LlamaFactory/issues/2929",
        "galore_adamw projects matrices, and zero2 gives the optimizer flat slices",
        "combinations",
        on("zero2", optim="galore_adamw", optim_target_modules="all-linear"),
    ),
    Broken(
        "reentrant checkpointing of an adapter under DDP",
        "https://github.com/huggingface/transformers/issues/23728",
        "reentrant gradient checkpointing of an adapter fails under ddp",
        "combinations",
        on("ddp", use_peft=True, gradient_checkpointing_kwargs={"use_reentrant": True}),
    ),
    Broken(
        "packing that mixes samples",
        "https://github.com/huggingface/trl/issues/3067",
        "wrapped packing lets tokens attend to the sample before their own",
        "combinations",
        settings(packing=True, packing_strategy="wrapped"),
    ),
    Broken(
        "the best model at the end of a run that does not evaluate",
        "https://github.com/huggingface/transformers/issues/12685",
        "load_best_model_at_end needs save_strategy steps and eval_strategy no to be the same",
        "combinations",
        settings(load_best_model_at_end=True),
    ),
    Broken(
        "an adapter on the head",
        "https://github.com/unslothai/unsloth/issues/9326",
        "an adapter on lm_head would never be trained",
        "combinations",
        settings(use_peft=True, lora_target_modules=["q_proj", "lm_head"]),
    ),
    Broken(
        "quantised weights without an adapter",
        "https://github.com/unslothai/unsloth/issues/241",
        "load_in_4bit without an adapter trains nothing",
        "",
        settings(load_in_4bit=True),
    ),
    Broken(
        "saves that come between evaluations",
        "https://github.com/huggingface/transformers/pull/12786",
        "save_steps 5 is no multiple of eval_steps 2",
        "steps",
        settings(load_best_model_at_end=True, save_steps=5, eval_steps=2, **EVALUATED),
    ),
    Broken(
        "an evaluation that never comes",
        "https://github.com/huggingface/transformers/pull/44146",
        "eval_steps 5000 never comes",
        "steps",
        settings(eval_steps=5000, **EVALUATED),
    ),
    Broken(
        "a warm-up that is longer than the run",
        "https://github.com/Morizeyao/GPT2-Chinese/issues/60",
        "warmup_steps 2000 is the whole run",
        "steps",
        settings(warmup_steps=2000),
    ),
    Broken(
        "fewer rows than one step takes",
        "https://github.com/deepspeedai/DeepSpeed/issues/131",
        "a step takes 512 rows, and there are 200",
        "steps",
        settings(gradient_accumulation_steps=256),
    ),
    Broken(
        "fewer rows than a batch, and the last batch is dropped",
        "https://docs.pytorch.org/docs/stable/data.html",
        "200 rows fill no batch of 256",
        "steps",
        settings(per_device_train_batch_size=256, dataloader_drop_last=True),
    ),
    Broken(
        "early stopping that can never happen",
        "https://github.com/huggingface/transformers/blob/main/src/transformers/trainer_callback.py",
        "it never stops early",
        "steps",
        settings(
            early_stopping_patience=5,
            metric_for_best_model="eval_loss",
            eval_steps=10,
            max_steps=30,
            **EVALUATED,
        ),
    ),
    Broken(
        "a learning rate without its exponent",
        "https://github.com/ssbuild/chatglm_finetuning/issues/28",
        "learning_rate 2 is far above what an adapter is trained with",
        "unusual numbers",
        settings(use_peft=True, learning_rate=2),
    ),
    Broken(
        "rows that are longer than the model's positions",
        "https://github.com/huggingface/transformers/issues/1726",
        "max_length 4,096 is longer than the 512 positions of the model",
        "unusual numbers",
        settings(max_length=4096),
    ),
    Broken(
        "targets of another family",
        "https://github.com/hiyouga/LlamaFactory/issues/3597",
        "lora_target_modules: c_attn matches no module of the model",
        "adapter",
        settings(use_peft=True, lora_target_modules=["c_attn"]),
    ),
    Broken(
        "one target of several that is not there",
        "https://github.com/huggingface/peft/issues/1959",
        "lora_target_modules: FAKE_TARGET_MODULE matches no module",
        "adapter",
        settings(use_peft=True, lora_target_modules=["q_proj", "FAKE_TARGET_MODULE"]),
    ),
    Broken(
        "a target with a slip of the pen, and what was meant",
        "https://github.com/HestiaSky/E4SRec/issues/5",
        "did you mean gate_proj?",
        "adapter",
        settings(use_peft=True, lora_target_modules=["q_proj", "gate_porj"]),
    ),
    Broken(
        "a list of targets that has become a pattern",
        "https://github.com/mikeybellissimo/LoRA-MPT/issues/4",
        "lora_target_modules: [Wqkv] matches no module of the model",
        "adapter",
        settings(use_peft=True, lora_target_modules="[Wqkv]"),
    ),
    Broken(
        "a target that is no linear layer",
        "https://github.com/haotian-liu/LLaVA/issues/908",
        "lora_target_modules: input_layernorm is no linear layer",
        "adapter",
        settings(use_peft=True, lora_target_modules=["q_proj", "input_layernorm"]),
    ),
    Broken(
        "an adapter on a family that PEFT has no targets for",
        "https://github.com/baichuan-inc/Baichuan-13B/issues/52",
        "has no target modules of its own for models of the type granite",
        "adapter",
        other_family,
    ),
    Broken(
        "a module to be saved that is not there",
        "https://huggingface.co/docs/peft/package_reference/lora",
        "lora_modules_to_save: wte matches no module of the model",
        "adapter",
        settings(use_peft=True, lora_modules_to_save=["wte"]),
    ),
)
