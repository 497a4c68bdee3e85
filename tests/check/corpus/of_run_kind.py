"""Broken setups: what a model's configuration says, and whether the weights are what it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from tests.check.corpus.bench import Bench, Broken
from tests.check.corpus.spoil import shapes_of, write_weights

WEIGHTS = "model.safetensors"


def config(change: Callable[[dict[str, Any]], object]) -> Callable[[Bench], object]:
    """Break config.json."""
    return lambda bench: bench.edit("config.json", change)


def adapter(bench: Bench) -> None:
    (bench.model / "config.json").unlink()
    (bench.model / WEIGHTS).rename(bench.model / "adapter_model.safetensors")
    (bench.model / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-8B"}')


def merged_beside_its_adapter(bench: Bench) -> None:
    shutil.copy(bench.model / WEIGHTS, bench.model / "adapter_model.safetensors")
    (bench.model / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-8B"}')


def weights(change: Callable[[dict[str, tuple[str, tuple[int, ...]]]], object]) -> Callable[[Bench], object]:
    """Write weights of other shapes."""

    def build(bench: Bench) -> None:
        tensors = shapes_of(bench.model / WEIGHTS)
        change(tensors)
        write_weights(bench.model / WEIGHTS, tensors)

    return build


def gptq(bench: Bench, **settings: Any) -> None:
    bench.edit("config.json", lambda one: one.update(quantization_config={"quant_method": "gptq", "bits": 4}))
    bench.settings |= settings


BROKEN = (
    Broken(
        "an adapter that is named as the model",
        "https://github.com/LC1332/Luotuo-Chinese-LLM/issues/19",
        "is an adapter, and not a model",
        "model's kind",
        adapter,
    ),
    Broken(
        "a model that was merged into its adapter's directory",
        "https://github.com/huggingface/transformers/blob/main/src/transformers/integrations/peft.py",
        "an adapter lies in the directory of the model",
        "model's kind",
        merged_beside_its_adapter,
    ),
    Broken(
        "a config.json that is cut off",
        "https://github.com/huggingface/transformers/blob/main/src/transformers/configuration_utils.py",
        "is no JSON",
        "model's kind",
        lambda bench: (bench.model / "config.json").write_text('{"model_type": "llama",'),
    ),
    Broken(
        "a config.json without a model_type",
        "https://github.com/huggingface/transformers/issues/44496",
        "has no model_type",
        "model's kind",
        config(lambda one: one.pop("model_type")),
    ),
    Broken(
        "a model that is newer than transformers",
        "https://github.com/unslothai/unsloth/issues/2054",
        "is of the type llama_of_next_year, which transformers",
        "model's kind",
        config(lambda one: one.update(model_type="llama_of_next_year")),
    ),
    Broken(
        "a model with code of its own that is not trusted",
        "https://github.com/hiyouga/LlamaFactory/issues/5797",
        "which is defined by code of its own",
        "model's kind",
        config(
            lambda one: one.update(
                model_type="own", auto_map={"AutoConfig": "c.Own", "AutoModelForCausalLM": "m.Own"}
            )
        ),
    ),
    Broken(
        "a config.json that names no architectures",
        "https://github.com/vllm-project/vllm/pull/38849",
        "names no architectures, and TRL takes the first",
        "model's kind",
        config(lambda one: one.pop("architectures")),
    ),
    Broken(
        "an encoder and decoder, such as T5",
        "https://github.com/huggingface/trl/issues/6165",
        "is a T5ForConditionalGeneration, an encoder and a decoder",
        "model's kind",
        config(
            lambda one: one.update(
                model_type="t5", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True
            )
        ),
    ),
    Broken(
        "an encoder, such as BERT",
        "https://huggingface.co/docs/transformers/tasks/language_modeling",
        "is a BertForMaskedLM, which has no head of a causal language model",
        "model's kind",
        config(lambda one: one.update(model_type="bert", architectures=["BertForMaskedLM"])),
    ),
    Broken(
        "a reward model",
        "https://github.com/meta-llama/llama/issues/578",
        "is a LlamaForSequenceClassification, which has no head",
        "model's kind",
        config(lambda one: one.update(architectures=["LlamaForSequenceClassification"])),
    ),
    Broken(
        "weights of GPTQ without an adapter",
        "https://github.com/unslothai/unsloth/issues/1110",
        "is quantised as gptq, and quantised weights are not trained",
        "model's kind",
        gptq,
    ),
    Broken(
        "weights of GPTQ that are to be quantised again",
        "https://github.com/huggingface/transformers/issues/25901",
        "is quantised already, as gptq: load_in_4bit cannot quantise it again",
        "model's kind",
        lambda bench: gptq(bench, load_in_4bit=True, use_peft=True, dtype="bfloat16"),
    ),
    Broken(
        "a quantization_config that does not say of which kind",
        "https://github.com/huggingface/transformers/blob/main/src/transformers/quantizers/auto.py",
        "names no quant_method",
        "model's kind",
        config(lambda one: one.update(quantization_config={"bits": 4, "group_size": 128})),
    ),
    Broken(
        "embeddings that were resized, and a config.json from before",
        "https://github.com/huggingface/autotrain-advanced/issues/512",
        "have 512 rows, and its config.json tells of 600",
        "model's weights",
        config(lambda one: one.update(vocab_size=600)),
    ),
    Broken(
        "a config.json of another size of the model",
        "https://github.com/huggingface/transformers/issues/13581",
        "are 64 wide, and its config.json tells of 128",
        "model's weights",
        config(lambda one: one.update(hidden_size=128)),
    ),
    Broken(
        "layers without weights",
        "https://github.com/sgl-project/sglang/pull/32279",
        "2 of the 4 layers that config.json of",
        "model's weights",
        config(lambda one: one.update(num_hidden_layers=4)),
    ),
    Broken(
        "a head that is untied and was not saved",
        "https://github.com/huggingface/transformers/pull/43429",
        "has no weights for lm_head",
        "model's weights",
        config(lambda one: one.update(tie_word_embeddings=False)),
    ),
    Broken(
        "weights that ZeRO-3 saved without gathering them",
        "https://github.com/huggingface/transformers/issues/20082",
        "tensors of",
        "model's weights",
        weights(lambda one: one.update({name: (one[name][0], (0,)) for name in list(one) if "proj" in name})),
    ),
)
