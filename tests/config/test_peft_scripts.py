"""Every flag of the launchers in PEFT's examples/sft is understood, or refused by name with the reason.

The flags and values are facts about those scripts, old and new; the launcher words before `train.py`
(`accelerate launch --config_file`, `torchrun --nproc_per_node`) stand beside them.
"""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.loader import load_run
from sft.errors import UserError

COMMON = {
    "seed": "100",
    "dataset_name": "smangrul/ultrachat-10k-chatml",
    "chat_template_format": "chatml",
    "add_special_tokens": "False",
    "append_concat_token": "False",
    "splits": "train,test",
    "num_train_epochs": "1",
    "logging_steps": "5",
    "log_level": "info",
    "logging_strategy": "steps",
    "save_strategy": "epoch",
    "bf16": "True",
    "packing": "True",
    "learning_rate": "1e-4",
    "lr_scheduler_type": "cosine",
    "weight_decay": "1e-4",
    "warmup_ratio": "0.0",
    "max_grad_norm": "1.0",
    "gradient_checkpointing": "True",
    "dataset_text_field": "content",
    "use_peft_lora": "True",
    "lora_r": "8",
    "lora_alpha": "16",
    "lora_dropout": "0.1",
    "lora_target_modules": "all-linear",
    "use_flash_attn": "True",
}
PUSH = {"push_to_hub": "", "hub_private_repo": "True", "hub_strategy": "every_save"}
QLORA = {"use_4bit_quantization": "True", "use_nested_quant": "True", "bnb_4bit_compute_dtype": "bfloat16"}
STORED = {**QLORA, "bnb_4bit_quant_storage_dtype": "bfloat16"}
PLAIN = {"use_4bit_quantization": "False"}
MISTRAL = {"model_name_or_path": "mistralai/Mistral-7B-v0.1"}
LLAMA = {"model_name_or_path": "meta-llama/Llama-2-70b-hf"}
NEW = {"max_length": "2048", "eval_strategy": "epoch"}
OLD = {"max_seq_len": "2048", "evaluation_strategy": "epoch"}


def _rows(micro: int, accumulation: int) -> dict[str, str]:
    return {
        "per_device_train_batch_size": str(micro),
        "per_device_eval_batch_size": str(micro),
        "gradient_accumulation_steps": str(accumulation),
    }


SCRIPTS: dict[str, dict[str, str]] = {
    "run_peft.sh": {**MISTRAL, **PUSH, **QLORA, **_rows(8, 8), "use_reentrant": "True",
                    "output_dir": "mistral-sft-lora"},
    "run_peft_multigpu.sh": {"nproc_per_node": "8", "nnodes": "1", **MISTRAL, **PUSH, **QLORA, **_rows(8, 8),
                             "use_reentrant": "False", "output_dir": "mistral-sft-lora-multigpu"},
    "run_peft_deepspeed.sh": {"config_file": "configs/deepspeed_config.yaml", **LLAMA, **PUSH, **PLAIN,
                              **_rows(8, 4), "use_reentrant": "False", "output_dir": "mistral-sft-lora-deepspeed"},
    "run_peft_fsdp.sh": {"config_file": "configs/fsdp_config.yaml", **LLAMA, **PUSH, **PLAIN, **_rows(8, 4),
                         "use_reentrant": "False", "output_dir": "mistral-sft-lora-fsdp"},
    "run_peft_fsdp_gptq.sh": {"config_file": "configs/fsdp_config.yaml",
                              "model_name_or_path": "hugging-quants/Meta-Llama-3.1-8B-Instruct-GPTQ-INT4",
                              **PLAIN, **_rows(8, 4), "use_reentrant": "False",
                              "lora_target_modules": "q_proj,k_proj,v_proj,o_proj,up_proj,gate_proj",
                              "output_dir": "llama3-8B-gptq-sft-lora-fsdp"},
    "run_peft_qlora_deepspeed_stage3.sh": {"config_file": "configs/deepspeed_config_z3_qlora.yaml", **LLAMA, **PUSH,
                                           **STORED, **_rows(2, 2), "use_reentrant": "True",
                                           "output_dir": "llama-sft-qlora-dsz3"},
    "run_peft_qlora_fsdp.sh": {"config_file": "configs/fsdp_config_qlora.yaml", **LLAMA, **PUSH, **STORED,
                               **_rows(2, 2), "use_reentrant": "True", "output_dir": "llama-sft-qlora-fsdp"},
    "run_unsloth_peft.sh": {**MISTRAL, **PUSH, "use_bnb_4bit_quantization": "True", "use_nested_quant": "True",
                            "bnb_4bit_compute_dtype": "bfloat16", **_rows(8, 8), "use_reentrant": "True",
                            "use_unsloth": "True",
                            "lora_target_modules": "q_proj,k_proj,v_proj,o_proj,down_proj,up_proj,gate_proj",
                            "output_dir": "mistral-sft-lora-unsloth"},
    "run_peft_mpo.sh": {**MISTRAL, "use_8bit_quantization": "False", **PLAIN, "use_nested_quant": "True",
                        "bnb_4bit_compute_dtype": "bfloat16", **_rows(8, 8), "use_reentrant": "True",
                        "lora_target_modules": "q_proj,v_proj", "adapter_name": "lora", "lora_mpo": "",
                        "output_dir": "./test_lorampo"},
}  # fmt: skip

TEMPLATE = "chat_template_format: chatml cannot take effect: the model keeps its own template, special tokens and embeddings"
COMPUTE = (
    "bnb_4bit_compute_dtype: bfloat16 cannot take effect: 4-bit layers compute in dtype, which is float32"
)
REFUSED = {
    "run_peft.sh": [COMPUTE, TEMPLATE],
    "run_peft_multigpu.sh": [COMPUTE, TEMPLATE],
    "run_unsloth_peft.sh": [
        COMPUTE,
        TEMPLATE,
        "use_unsloth: True cannot take effect: unsloth is not supported: it patches the libraries that the kit checks",
    ],
    "run_peft_mpo.sh": [
        "adapter_name: lora cannot take effect: an adapter is saved under PEFT's name, default",
        TEMPLATE,
        "lora_mpo: True cannot take effect: TRL's settings offer LoRA, rsLoRA and DoRA, not MPO",
    ],
}
"""What each script asks for that cannot be had; the other scripts ask for TEMPLATE alone."""


def _words(flags: dict[str, str]) -> list[str]:
    return [
        word for name, value in flags.items() for word in ([f"--{name}", value] if value else [f"--{name}"])
    ]


@pytest.mark.parametrize("ages", [NEW, OLD], ids=["new", "old"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_refused_by_name_for_what_cannot_be_had(script: str, ages: dict[str, str]) -> None:
    with pytest.raises(UserError) as caught:
        load_run(None, _words({**COMMON, **ages, **SCRIPTS[script]}), environment={})
    assert [problem.what for problem in caught.value.problems] == REFUSED.get(script, [TEMPLATE])
    assert all(problem.fix and problem.where for problem in caught.value.problems)


MENDED: dict[str, dict[str, str | None]] = {
    "bnb_4bit_compute_dtype": {"dtype": "bfloat16"},
    "adapter_name": {"adapter_name": None},
    "lora_mpo": {"lora_mpo": None},
    "use_unsloth": {"use_unsloth": None},
    "chat_template_format": {"chat_template_format": "none"},
}


@pytest.mark.parametrize("ages", [NEW, OLD], ids=["new", "old"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_with_the_fixes_applied_is_understood_in_full(script: str, ages: dict[str, str]) -> None:
    flags: dict[str, str | None] = {**COMMON, **ages, **SCRIPTS[script]}
    for refused in REFUSED.get(script, [TEMPLATE]):
        flags.update(MENDED[refused.split(":")[0]])
    given = {name: value for name, value in flags.items() if value is not None}
    loaded = load_run(None, _words(given), environment={})
    config = loaded.config
    four_bit = (
        "true"
        in (given.get("use_4bit_quantization", "") + given.get("use_bnb_4bit_quantization", "")).lower()
    )
    modules = given["lora_target_modules"]
    storage = given.get("bnb_4bit_quant_storage_dtype")
    expected: dict[str, Any] = {
        "model_name_or_path": given["model_name_or_path"],
        "use_peft": True,
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "lora_target_modules": modules if modules == "all-linear" else modules.split(","),
        "load_in_4bit": four_bit,
        "load_in_8bit": False,
        "use_bnb_nested_quant": "use_nested_quant" in given,
        "bnb_4bit_quant_storage": storage,
        "dtype": "bfloat16" if "dtype" in given or storage else "float32",
        "attn_implementation": "flash_attention_2",
    }
    assert {key: getattr(config.model, key) for key in expected} == expected
    training: dict[str, Any] = {
        "seed": 100,
        "max_length": 2048,
        "num_train_epochs": 1,
        "logging_steps": 5,
        "log_level": "info",
        "logging_strategy": "steps",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "push_to_hub": "push_to_hub" in given,
        "hub_private_repo": True if "push_to_hub" in given else None,
        "hub_strategy": "every_save",
        "bf16": True,
        "packing": True,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "weight_decay": 1e-4,
        "warmup_steps": 0,
        "max_grad_norm": 1,
        "output_dir": given["output_dir"],
        "per_device_train_batch_size": int(given["per_device_train_batch_size"]),
        "per_device_eval_batch_size": int(given["per_device_eval_batch_size"]),
        "gradient_accumulation_steps": int(given["gradient_accumulation_steps"]),
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": given["use_reentrant"] == "True"},
        "dataset_text_field": "content",
    }
    assert {key: getattr(config.training, key) for key in training} == training
    script_arguments = config.script
    assert (script_arguments.dataset_train_split, script_arguments.dataset_test_split) == ("train", "test")
    assert config.launch.accelerate_config == given.get("config_file")
    assert config.launch.processes_per_node == (8 if "nproc_per_node" in given else None)


@pytest.mark.parametrize(
    "flag",
    [
        "use_gradient_checkpointing",
        "use_loftq",
        "use_loftq_callback",
        "tokenizer_name",
        "bnb_4bit_quant_type",
    ],
)
def test_arguments_that_no_script_uses_are_known_too(flag: str) -> None:
    value = "fp4" if flag == "bnb_4bit_quant_type" else "false"
    words = ["--model_name_or_path", "m", "--dataset_name", "d", f"--{flag}", value]
    load_run(None, words, environment={})
