"""Quantised weights and adapters."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.run import RunConfig
from sft.errors import Problem
from sft.plan.plan import Plan

NO_CAST_STORAGE = (None, "uint8", "int8")
"""Storage that no strategy casts; uint8 is the default."""
FLOAT_OF = {"bf16": "bfloat16", "fp16": "float16"}
FOUR_BIT_KEYS = {"bnb_4bit_quant_type", "bnb_4bit_quant_storage", "use_bnb_nested_quant"}
ADAPTER_KEYS = {
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_target_parameters",
    "lora_modules_to_save",
    "use_rslora",
    "use_dora",
}


def _targets(config: RunConfig) -> tuple[str, ...]:
    targets = config.model.lora_target_modules
    return (targets,) if isinstance(targets, str) else tuple(targets or ())


def four_bit_storage_under_fsdp(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """FSDP leaves integer tensors alone: with uint8 all 36,864 packed bytes stayed on both ranks; bf16 halves."""
    model = config.model
    if model.load_in_4bit and plan.strategy.is_fsdp and model.bnb_4bit_quant_storage in NO_CAST_STORAGE:
        wanted = FLOAT_OF.get(config.mixed_precision, "float32")
        yield Problem(
            f"4-bit weights stored as {model.bnb_4bit_quant_storage or 'uint8'} are not sharded by {plan.strategy}:"
            " every process would hold all of them",
            "bnb_4bit_quant_storage" if model.bnb_4bit_quant_storage else "load_in_4bit",
            f"set bnb_4bit_quant_storage: {wanted}",
        )


def four_bit_storage_that_is_cast(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """DeepSpeed and FSDP cast floating weights to the mixed precision, packed 4-bit ones too.

    float16 stored under bf16: the first loss 6.137 instead of 6.191, in silence; float32: "shape '[64, 32]' is
    invalid for input of size 1024".
    """
    model = config.model
    wanted = FLOAT_OF.get(config.mixed_precision)
    casts = plan.strategy.is_deepspeed or plan.strategy.is_fsdp
    storage = model.bnb_4bit_quant_storage
    if model.load_in_4bit and casts and wanted and storage not in (*NO_CAST_STORAGE, wanted):
        yield Problem(
            f"{plan.strategy} casts weights to {wanted}, which garbles 4-bit weights that are stored as {storage}",
            "bnb_4bit_quant_storage",
            f"set bnb_4bit_quant_storage: {wanted}",
        )


def eight_bit_under_fsdp(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """RuntimeError: "Creating a Parameter from an instance of type Int8Params requires that detach() ..."."""
    if config.model.load_in_8bit and plan.strategy.is_fsdp:
        yield Problem(
            f"8-bit weights cannot be sharded by {plan.strategy}",
            "load_in_8bit",
            "set launch.strategy: zero3, which partitions them, or load_in_4bit: true with bnb_4bit_quant_storage",
        )


def dora_on_quantised(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """ZeRO-3: a bare AssertionError in defragment; FSDP2: "uniform original parameter dtype"; 8-bit on CPU: no scales."""
    if not (config.model.use_dora and config.is_quantized):
        return
    if plan.strategy.shards_parameters:
        yield Problem(
            f"DoRA on a quantised base cannot be sharded by {plan.strategy}: its magnitudes are float32, its"
            " matrices bfloat16",
            "use_dora",
            "set use_dora: false, or launch.strategy: zero2",
        )
    elif config.model.load_in_8bit and plan.device == "cpu":
        yield Problem("DoRA on 8-bit weights fails on CPU", "use_dora", "set load_in_4bit: true instead of 8")


def adapter_settings_without_adapter(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """lora_r and lora_target_modules without use_peft trained every weight, to the digit as without them."""
    given = sorted(
        key for key in config.model.model_fields_set & ADAPTER_KEYS if getattr(config.model, key) is not None
    )
    if given and not config.model.use_peft:
        yield Problem(
            f"{', '.join(given)} without use_peft: every weight would be trained",
            given[0],
            "set use_peft: true, or remove it",
        )


def four_bit_settings_without_four_bit(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """bnb_4bit_quant_storage without load_in_4bit changed nothing."""
    given = sorted(config.model.model_fields_set & FOUR_BIT_KEYS)
    if given and not config.model.load_in_4bit:
        yield Problem(
            f"{', '.join(given)} has no effect: nothing is loaded in 4 bits",
            given[0],
            "set load_in_4bit: true, or remove it",
        )


def adapter_on_head(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """TRL: "Applying a PEFT adapter to `lm_head` is not supported", once the model is loaded."""
    if config.model.use_peft and "lm_head" in _targets(config):
        yield Problem(
            "an adapter on lm_head would never be trained: the loss reads lm_head.weight itself",
            "lora_target_modules",
            "remove lm_head from it; lora_modules_to_save: [lm_head] trains the whole of it",
        )


def saved_modules_under_fsdp(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """The head's gradient norm was 1.487 instead of 1.478; tied embeddings were tied again: 5.57 for 5.99 at step 2.

    With tied embeddings, lm_head itself ends in KeyError: "attribute 'weight' already exists".
    """
    both = {"lm_head", "embed_tokens"} & set(config.model.lora_modules_to_save or ())
    if config.model.use_peft and both and plan.strategy.is_fsdp:
        yield Problem(
            f"{plan.strategy} trains {' and '.join(sorted(both))} wrongly beside an adapter",
            "lora_modules_to_save",
            "set launch.strategy: zero3 or ddp",
        )


def adapter_task(config: RunConfig, plan: Plan) -> Iterator[Problem]:
    """SEQ_CLS trained the same to the digit as CAUSAL_LM."""
    if config.model.use_peft and config.model.lora_task_type != "CAUSAL_LM":
        yield Problem(
            f"lora_task_type {config.model.lora_task_type} has no effect on training, which is of a"
            " causal language model",
            "lora_task_type",
            "set lora_task_type: CAUSAL_LM",
        )


RULES = (
    four_bit_storage_under_fsdp,
    four_bit_storage_that_is_cast,
    eight_bit_under_fsdp,
    dora_on_quantised,
    adapter_settings_without_adapter,
    four_bit_settings_without_four_bit,
    adapter_on_head,
    saved_modules_under_fsdp,
    adapter_task,
)
