"""Names of old: each has its one line, and means what it meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.config.fields import is_key
from sft.config.old_names import CONVERTED, RENAMED, SILENT
from sft.config.retired import RETIRED, STILL_FIELDS
from tests.config.reading import read, refusal

EITHER_WAY = ("include_tokens_per_second", "quiet")
"""Retired names of which both values are true."""


def _get(config: Any, key: str) -> Any:
    if key.startswith("launch."):
        return getattr(config.launch, key.removeprefix("launch."))
    for section in ("script", "training", "model", "mixture", "kit"):
        if key in type(getattr(config, section)).model_fields:
            return getattr(getattr(config, section), key)
    raise AssertionError(f"no section has {key}")


def test_every_renamed_name_leads_to_a_key_of_today() -> None:
    assert [name for name, new in RENAMED.items() if not is_key(new)] == []
    names = [*RENAMED, *CONVERTED, *RETIRED]
    assert len(names) == len(set(names))
    # deepspeed, fsdp and the tokens are fields of TRL's that the kit reads otherwise.
    assert {name for name in names if is_key(name)} == {"deepspeed", "fsdp", *STILL_FIELDS}


@pytest.mark.parametrize("name", sorted(set(RENAMED) - SILENT))
def test_a_renamed_name_is_read_and_told_in_one_line(tmp_path: Path, name: str) -> None:
    key = RENAMED[name]
    written = {"dtype": "float16", "eval_strategy": "epoch", "ddp_backend": "gloo"}.get(key, "1")
    text = f"{name}: {written}\nuse_peft: true\n"
    if name == "use_peft_lora":
        text = f"{name}: {written}\n"
    loaded = read(tmp_path, text)
    assert str(_get(loaded.config, key)) in (written, "True")
    assert [note.replace(f"{tmp_path}/", "") for note in loaded.notes] == [
        f"{name} is read as {key} (run.yaml:3)"
    ]


@pytest.mark.parametrize("name", sorted(SILENT))
def test_launch_keys_of_trl_and_short_forms_need_no_word(tmp_path: Path, name: str) -> None:
    written = {"strategy": "zero2"}.get(name, "3")
    for text in (f"{name}: {written}\n", f"launch: {{{name}: {written}}}\n"):
        loaded = read(tmp_path, text)
        assert str(_get(loaded.config, RENAMED[name])) == written
        assert loaded.notes == ()


# fmt: off
CONVERSIONS: list[tuple[str, str, Any, str]] = [
    ("use_flash_attn: true", "attn_implementation", "flash_attention_2", "attn_implementation: flash_attention_2"),
    ("use_flash_attention_2: false", "attn_implementation", None, "the default"),
    ("use_reentrant: false", "gradient_checkpointing_kwargs", {"use_reentrant": False},
     "gradient_checkpointing_kwargs: {'use_reentrant': False}"),
    ("gradient_checkpointing_use_reentrant: on", "gradient_checkpointing_kwargs", {"use_reentrant": True},
     "gradient_checkpointing_kwargs: {'use_reentrant': True}"),
    ("splits: train,test", "dataset_test_split", "test", "dataset_train_split: train, dataset_test_split: test"),
    ("splits: test_sft, train_sft", "dataset_train_split", "train_sft",
     "dataset_test_split: test_sft, dataset_train_split: train_sft"),
    ("warmup_ratio: 0.03", "warmup_steps", 0.03, "warmup_steps: 0.03"),
    ("warmup_ratio: 0.0", "warmup_steps", 0.0, "warmup_steps: 0.0"),
    ("group_by_length: true", "train_sampling_strategy", "group_by_length",
     "train_sampling_strategy: group_by_length"),
    ("adafactor: true", "optim", "adafactor", "optim: adafactor"),
    ("include_inputs_for_metrics: true", "include_for_metrics", ["inputs"], "include_for_metrics: ['inputs']"),
    ("split_batches: true", "accelerator_config", {"split_batches": True},
     "accelerator_config: {'split_batches': True}"),
    ("dispatch_batches: false", "accelerator_config", {"dispatch_batches": False},
     "accelerator_config: {'dispatch_batches': False}"),
    ("multi_gpu: true", "launch.strategy", "ddp", "launch.strategy: ddp"),
    ("use_fsdp: true", "launch.strategy", "fsdp2", "launch.strategy: fsdp2"),
    ("fsdp: true", "launch.strategy", "fsdp2", "launch.strategy: fsdp2"),
    ("fsdp: full_shard auto_wrap offload", "launch.strategy", "fsdp2_offload", "launch.strategy: fsdp2_offload"),
    ("zero_stage: 3", "launch.strategy", "zero3", "launch.strategy: zero3"),
    ("cpu: true", "use_cpu", True, "use_cpu: True"),
]
# fmt: on


@pytest.mark.parametrize(("text", "key", "value", "told"), CONVERSIONS)
def test_a_converted_name_is_read_and_told(
    tmp_path: Path, text: str, key: str, value: Any, told: str
) -> None:
    loaded = read(tmp_path, text)
    assert _get(loaded.config, key) == value
    name, _, written = text.partition(": ")
    shown = {"true": "True", "false": "False"}.get(written, written)
    assert [note.replace(f"{tmp_path}/", "") for note in loaded.notes] == [
        f"{name}: {shown} is read as {told} (run.yaml:3)"
    ]


def test_every_converted_name_is_tried_above() -> None:
    assert {text.partition(":")[0] for text, *_ in CONVERSIONS} == set(CONVERTED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("warmup_ratio: 1", "warmup_ratio cannot be 1\n  where: run.yaml:3\n"
         "  fix:   it is at least 0 and below 1; for steps set warmup_steps"),
        ("splits: train,validation", "splits cannot be 'train,validation'\n  where: run.yaml:3\n"
         "  fix:   each split has train or test in its name; set dataset_test_split for another"),
        ("fsdp: shard_grad_op", "fsdp cannot be 'shard_grad_op'\n  where: run.yaml:3\n"
         "  fix:   FSDP2 has full_shard, auto_wrap and offload; set launch.strategy: fsdp2 or zero2"),
        ("zero_stage: 4", "zero_stage cannot be 4\n  where: run.yaml:3\n  fix:   it is 0, 1, 2 or 3"),
        ("use_flash_attn: perhaps", "use_flash_attn cannot be 'perhaps'\n  where: run.yaml:3\n"
         "  fix:   it is true or false"),
        ("max_length: 5\nmax_seq_length: 6", "max_seq_length and max_length are the same setting with two values, "
         "6 and 5\n  where: run.yaml:4\n  fix:   keep max_length"),
    ],
)  # fmt: skip
def test_a_value_of_old_that_cannot_be_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text) == message


def test_old_and_new_name_with_one_value_are_one_setting(tmp_path: Path) -> None:
    assert read(tmp_path, "max_length: 5\nmax_seq_length: 5\n").config.training.max_length == 5


@pytest.mark.parametrize(
    ("steps", "ratio", "read_as"), [(0, 0.1, 0.1), (100, 0.1, 100), (100, 0.0, 100), (0, 0, 0)]
)
def test_warmup_steps_above_zero_win_over_the_ratio_as_in_transformers_4(
    tmp_path: Path, steps: int, ratio: float, read_as: float
) -> None:
    text = f"warmup_steps: {steps}\nwarmup_ratio: {ratio}\n"
    assert read(tmp_path, text).config.training.warmup_steps == read_as


@pytest.mark.parametrize("name", sorted(RETIRED))
def test_a_retired_name_is_accepted_for_what_happens_anyway(tmp_path: Path, name: str) -> None:
    for value in sorted(RETIRED[name].anyway):
        loaded = read(tmp_path, f"{name}: {value!r}\n")
        assert loaded.config == read(tmp_path).config
        assert loaded.notes == (
            f"{name} is not needed any more: {RETIRED[name].why} ({tmp_path}/run.yaml:3)",
        )


@pytest.mark.parametrize("name", sorted(name for name in RETIRED if name not in EITHER_WAY))
def test_a_retired_name_is_refused_with_the_reason_otherwise(tmp_path: Path, name: str) -> None:
    gone = RETIRED[name]
    value = "false" if "true" in gone.anyway else "surely_not"
    shown = "" if gone.secret else ": False" if value == "false" else ": surely_not"
    assert refusal(tmp_path, f"{name}: {value}\n") == (
        f"{name}{shown} cannot take effect: {gone.why}\n  where: run.yaml:3\n  fix:   {gone.fix}"
    )


def test_a_token_is_never_repeated(tmp_path: Path) -> None:
    for name in ("hub_token", "push_to_hub_token"):
        assert "hf_abc" not in refusal(tmp_path, f"{name}: hf_abc\n")


def test_values_that_were_renamed_are_read(tmp_path: Path) -> None:
    loaded = read(tmp_path, "packing_strategy: bfd-requeue\n")
    assert loaded.config.training.packing_strategy == "bfd_split"
    assert loaded.notes == (f"packing_strategy: bfd-requeue is read as bfd_split ({tmp_path}/run.yaml:3)",)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("mixed_precision: bf16", "mixed_precision is not needed: the trainer's precision is bf16, as bf16 and fp16 say"),
        ("mixed_precision: 'no'\nbf16: false",
         "mixed_precision is not needed: the trainer's precision is no, as bf16 and fp16 say"),
        ("bnb_4bit_compute_dtype: bfloat16", "bnb_4bit_compute_dtype has no effect: nothing is in 4 bits"),
        ("bnb_4bit_compute_dtype: bfloat16\ndtype: bfloat16\nuse_peft: true\nload_in_4bit: true",
         "bnb_4bit_compute_dtype is not needed: 4-bit layers compute in dtype"),
    ],
)  # fmt: skip
def test_a_name_that_depends_on_others_is_accepted_where_it_agrees(
    tmp_path: Path, text: str, note: str
) -> None:
    assert read(tmp_path, text).notes == (f"{note} ({tmp_path}/run.yaml:3)",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixed_precision: fp16", "mixed_precision: fp16 cannot take effect: the trainer's precision is bf16, as bf16 and "
         "fp16 say\n  where: run.yaml:3\n  fix:   set fp16: true"),
        ("mixed_precision: fp8", "mixed_precision: fp8 cannot take effect: the trainer's precision is bf16, as bf16 and "
         "fp16 say\n  where: run.yaml:3\n  fix:   use no, bf16 or fp16"),
        ("bnb_4bit_compute_dtype: bfloat16\nuse_peft: true\nload_in_4bit: true",
         "bnb_4bit_compute_dtype: bfloat16 cannot take effect: 4-bit layers compute in dtype, which is float32\n"
         "  where: run.yaml:3\n  fix:   set dtype: bfloat16, in which the rest of the model is loaded too"),
    ],
)  # fmt: skip
def test_and_refused_where_it_does_not(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text) == message


def test_the_storage_dtype_of_pefts_examples_is_the_load_dtype_too(tmp_path: Path) -> None:
    four_bit = "use_peft_lora: true\nuse_4bit_quantization: true\n"
    text = "bnb_4bit_quant_storage_dtype: bfloat16\n"
    loaded = read(tmp_path, text + four_bit + "bnb_4bit_compute_dtype: bfloat16\n")
    model = loaded.config.model
    assert (model.bnb_4bit_quant_storage, model.dtype) == ("bfloat16", "bfloat16")
    assert (
        f"bnb_4bit_quant_storage_dtype: bfloat16 is read as bnb_4bit_quant_storage: bfloat16, dtype: bfloat16 "
        f"({tmp_path}/run.yaml:3)"
    ) in loaded.notes
    assert read(tmp_path, text + four_bit + "dtype: float32\n").config.model.dtype == "float32"
    full = read(tmp_path, text)
    assert full.config == read(tmp_path).config
    assert full.notes == (
        f"bnb_4bit_quant_storage_dtype has no effect: nothing is in 4 bits ({tmp_path}/run.yaml:3)",
    )
    assert read(tmp_path, text.replace("bfloat16", "uint8") + four_bit).config.model.dtype == "float32"
