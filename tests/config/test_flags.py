"""The command line: the same names as the run file's keys, and they win over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.config.reading import read, refusal


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("--learning_rate 2e-4", "training.learning_rate", 2e-4),
        ("--learning-rate=2e-4", "training.learning_rate", 2e-4),
        ("--push_to_hub false", "training.push_to_hub", False),
        ("--push_to_hub", "training.push_to_hub", True),
        ("--push_to_hub=True", "training.push_to_hub", True),
        ("--packing", "training.packing", True),
        ("--no_packing", "training.packing", False),
        ("--no-packing", "training.packing", False),
        ("--no_gradient_checkpointing", "training.gradient_checkpointing", False),
        ("--no_cuda", "training.use_cpu", True),
        ("--no_cuda false", "training.use_cpu", False),
        ("--bf16 none", "training.bf16", None),
        ("--max_length none", "training.max_length", None),
        ("--neftune_noise_alpha null", "training.neftune_noise_alpha", None),
        ("--report_to none", "training.report_to", "none"),
        ("--report_to wandb tensorboard", "training.report_to", ["wandb", "tensorboard"]),
        ("--max_steps -1", "training.max_steps", -1),
        ("--seed 1 --seed 2", "training.seed", 2),
        ("--save_strategy no", "training.save_strategy", "no"),
        ("--run_name 010", "training.run_name", "010"),
        ("--resume_from_checkpoint", "training.resume_from_checkpoint", True),
        ("--resume_from_checkpoint true", "training.resume_from_checkpoint", True),
        ("--resume_from_checkpoint dir", "training.resume_from_checkpoint", "dir"),
        ("--lora_target_modules q_proj v_proj", "model.lora_target_modules", ["q_proj", "v_proj"]),
        ("--lora_target_modules all-linear", "model.lora_target_modules", "all-linear"),
        ("--lora_modules_to_save lm_head", "model.lora_modules_to_save", ["lm_head"]),
        ('--lr_scheduler_kwargs {"num_cycles":2}', "training.lr_scheduler_kwargs", {"num_cycles": 2}),
        ('--model_init_kwargs {"a":"True","b":"1.5"}', "training.model_init_kwargs", {"a": True, "b": 1.5}),
        ('--env {"A":"01"}', "kit.env", {"A": "01"}),
        ('--callbacks ["a.py:A"]', "kit.callbacks", ["a.py:A"]),
        ("--callbacks a.py:A", "kit.callbacks", ["a.py:A"]),
        ("--nodes 1", "launch.nodes", 1),
        ("--launch.slurm.partition gpu", "launch.slurm.partition", "gpu"),
        ("--num_processes 2", "launch.num_processes", 2),
        ("--strategy multi_gpu", "launch.strategy", "ddp"),
    ],
)
def test_a_flag_is_read_as_the_key(tmp_path: Path, words: str, key: str, value: Any) -> None:
    found: Any = read(tmp_path, "seed: 7\npacking: true\nbf16: false\n", words.split(" ")).config
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_mixture_can_be_given_as_json(tmp_path: Path) -> None:
    words = ["--datasets", '[{"path": "$W/a", "split": "train[:1%]"}]']
    found = read(tmp_path, words=words, environment={"W": "/w"}).config.mixture.datasets
    assert [(item.path, item.split) for item in found] == [("/w/a", "train[:1%]")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("oops", "unexpected word 'oops'\n  fix:   a run file comes first, then --key value"),
        ("--", "unexpected word '--'\n  fix:   a run file comes first, then --key value"),
        ("-x", "unexpected word '-x'\n  fix:   a run file comes first, then --key value"),
        ("--seed", "--seed needs a value\n  where: --seed\n  fix:   --seed VALUE"),
        ("--packing maybe", "--packing is true or false, not 'maybe'\n  where: --packing\n  fix:   --packing true"),
        ("--no_packing true", "--no_packing takes no value, and has 'true'\n  where: --no_packing\n"
         "  fix:   --packing false"),
        ("--seed 1 2", "--seed takes one value, not 2: 1 2\n  where: --seed\n  fix:   put it in quotes: '1 2'"),
        ("--lerning_rate 1", "unknown key lerning_rate\n  where: --lerning_rate\n  fix:   did you mean learning_rate?"),
        ("--zzz", "unknown key zzz\n  where: --zzz\n  fix:   `sft schema` lists every key"),
        ("--datasets [{", "datasets is a list, not '[{'\n  where: --datasets\n  fix:   `sft schema datasets` tells more"),
        ("--splits", "--splits needs a value\n  where: --splits\n  fix:   --splits VALUE"),
    ],
)  # fmt: skip
def test_a_flag_that_cannot_be_is_refused(tmp_path: Path, words: str, message: str) -> None:
    assert refusal(tmp_path, words=words.split(" ")) == message


def test_problems_of_flags_and_file_come_together(tmp_path: Path) -> None:
    message = refusal(tmp_path, "sead: 1\n", ["--seed", "x", "--packing", "maybe"])
    assert [line for line in message.splitlines() if "where" in line] == [
        "  where: --packing",
        "  where: --seed",
        "  where: run.yaml:3",
    ]


def test_a_switch_that_is_turned_off_takes_back_what_the_file_said(tmp_path: Path) -> None:
    text = "use_flash_attn: true\noptim: sgd\ngroup_by_length: true\nfsdp: true\n"
    words = ["--use_flash_attn", "false", "--adafactor", "no", "--no_group_by_length"]
    config = read(tmp_path, text, words).config
    assert config.model.attn_implementation is None
    assert config.training.optim == "sgd"
    assert config.training.train_sampling_strategy == "random"
    assert config.launch.strategy == "fsdp2"
